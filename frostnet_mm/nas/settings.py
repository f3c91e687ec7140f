"""What a search is asked to do: the options of ``search`` in a config and of the command line."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..benchmark.cells import PRECISIONS
from ..deploy.engines import engine_names
from ..quantization.scheme import GRANULARITIES
from .errors import SearchError
from .latency import LEAST_NETWORKS

SAMPLERS = ('nsga2', 'random')
SEARCHED = ('int8', 'int8w7', 'float')  # precisions whose metric is known without the engine


@dataclass(frozen=True)
class SearchSettings:
    """The options of a search, ``search = dict(...)`` in a config.

    Args:
        engine (str): Name of a registered engine. Default: 'openvino'.
        target_ms (float, optional): What a network may take on it, in milliseconds. Default: no limit.
        trials (int): Networks whose metric is measured. Default: 150.
        val_fraction (float): Part of the training images that is held back to compare networks on. Default: 0.2.
        precision (str): 'int8', 'int8w7' or 'float'. Default: 'int8'.
        threads (int): Of the engine. Default: 1.
        seed (int): Of the split, of the networks that are trained and timed, and of the sampler. Default: 0.
        epochs (int): Of the training of all networks at once. Default: 20.
        sampler (str): 'nsga2', or 'random' as a control. Default: 'nsga2'.
        space (dict, optional): Options of :class:`SearchSpace`. Default: its defaults.
        quantize (bool): Train all networks in simulated INT8 (:class:`SupernetHook`). Default: False.
        networks (int): Networks that are timed to fit the latency model. Default: 40.
        shape (tuple[int, int], optional): Height and width of the images that are timed. Default: those of the test
            pipeline.
        weights (str): 'channel' for a scale an output channel of the weights in INT8, 'tensor' for one scale a weight.
            Default: 'channel'.
        batch_size (int, optional): Images of a network in the training of all at once, of which an update takes four.
            Default: the config's.

    Raises:
        SearchError: A value is out of its domain.
    """

    engine: str = 'openvino'
    target_ms: float | None = None
    trials: int = 150
    val_fraction: float = 0.2
    precision: str = 'int8'
    threads: int = 1
    seed: int = 0
    epochs: int = 20
    sampler: str = 'nsga2'
    space: Mapping[str, Any] | None = None
    quantize: bool = False
    networks: int = 40
    shape: tuple[int, int] | None = None
    weights: str = 'channel'
    batch_size: int | None = None

    @classmethod
    def of(cls, options: Any, given: Mapping[str, Any] | None = None) -> 'SearchSettings':
        """From the options of a config, and those of the command line that take their place.

        Args:
            options (dict, optional): ``search`` of the config.
            given (dict, optional): Of the command line; None stands for what was not given.

        Raises:
            SearchError: There is no such option, or a value is out of its domain.
        """
        if not isinstance(options or {}, Mapping):
            raise SearchError(f'search={options!r} of the config: expected a dict of {", ".join(_names())}.')
        own = dict(options or {}) | {name: value for name, value in (given or {}).items() if value is not None}
        for name in own:
            if name not in _names():
                near = difflib.get_close_matches(name, _names(), n=1)
                hint = f'Did you mean {near[0]}?' if near else f'Expected {", ".join(_names())}.'
                raise SearchError(f'search has the unknown option {name!r}. {hint}')
        if own.get('shape') is not None:
            own['shape'] = _shape(own['shape'])
        found = cls(**own)
        found._check()
        return found

    def _check(self) -> None:
        def require(fits: bool, name: str, expected: str) -> None:
            if not fits:
                raise SearchError(f'search.{name}={getattr(self, name)!r}: expected {expected}.')

        require(self.engine in engine_names(), 'engine', f'one of {", ".join(engine_names())}')
        target = self.target_ms
        require(target is None or (_is_number(target) and target > 0), 'target_ms', 'milliseconds above 0, or None')
        for name, least in (('trials', 1), ('threads', 1), ('epochs', 1), ('networks', LEAST_NETWORKS), ('seed', 0)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and value >= least, name, f'a whole number from {least}')
        batch = self.batch_size
        whole = isinstance(batch, int) and not isinstance(batch, bool)
        require(batch is None or (whole and batch > 0), 'batch_size', 'a whole number from 1, or None')
        fraction = self.val_fraction
        require(_is_number(fraction) and 0 < fraction < 1, 'val_fraction', 'a part of the training images, 0 to 1')
        require(self.precision in SEARCHED, 'precision', f'one of {", ".join(SEARCHED)}')
        require(self.sampler in SAMPLERS, 'sampler', f'one of {", ".join(SAMPLERS)}')
        require(isinstance(self.space or {}, Mapping), 'space', 'a dict')
        require(isinstance(self.quantize, bool), 'quantize', 'True or False')
        require(self.weights in GRANULARITIES, 'weights', f'one of {", ".join(GRANULARITIES)}')

    @property
    def weight_bits(self) -> int | None:
        """Bits of the INT8 weights; None in float."""
        return PRECISIONS[self.precision][1]

    def with_shape(self, shape: tuple[int, int]) -> 'SearchSettings':
        """The same with a size of images, unless they have one."""
        return self if self.shape is not None else replace(self, shape=shape)

    def to_dict(self) -> dict[str, Any]:
        """All as plain data."""
        return asdict(replace(self, space=None)) | dict(space=None if self.space is None else dict(self.space))


def threads(count: int) -> str:
    """Such as '1 thread'."""
    return f'{count} thread' + 's' * (count != 1)


def _names() -> list[str]:
    return [field.name for field in fields(SearchSettings)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shape(value: Any) -> tuple[int, int]:
    found = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(found) != 2 or not all(isinstance(side, int) and side > 0 for side in found):
        raise SearchError(f'search.shape={value!r}: expected (height, width) in pixels.')
    return found
