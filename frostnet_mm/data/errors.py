"""What can be wrong with data sets and images; importing it needs neither torch nor mm."""

import struct

from PIL import Image

from ..errors import UserError

#: What Pillow's decoders raise on broken input; it differs by format.
DECODE_ERRORS = (OSError, EOFError, IndexError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


class DatasetError(UserError, ValueError):
    """A data set that cannot be used as it is; the message says what is wrong and what mends it."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """The data root, the annotation file, the image folder or images of a data set do not exist."""


class BadImageError(UserError, ValueError):
    """An image file that cannot be used.

    Args:
        path (str): The image file.
        reason (str): What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use the image '{self.path}': {self.reason}"


class ResizedAwayError(BadImageError):
    """An image so narrow that the pipeline's Resize leaves nothing of one of its sides."""
