"""What can go wrong with quantization that a user can mend."""

from ..errors import UserError


class QuantizationError(UserError, ValueError):
    """An option or a combination of options cannot be quantized with; the message says what was expected."""


class RangeError(QuantizationError):
    """A quantizer has no usable range; the message names its layer and what to do."""
