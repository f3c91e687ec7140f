"""From a network's features to its milliseconds on an engine: a regression, checked before it is believed."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from .errors import SearchError
from .features import FEATURES, mmacs

LEAST_SPEARMAN = 0.95
BAND = 0.1  # networks whose multiply-accumulates differ by at most this much tell whether those alone would do
LEAST_PAIRS = 20  # of such networks
LEAST_NETWORKS = 2 * (len(FEATURES) + 1)
ROUNDS = 5  # of fitting and finding the paces
LEAST_GROUP = 5  # networks measured in turns from which on their residuals tell the pace of the machine
REST = 'rest'  # of the model: neck, head and what every call costs
Features = Mapping[str, float]


@dataclass(frozen=True)
class Check:
    """How well the times of networks are predicted by regressions that have not seen them (leave-one-out).

    Args:
        networks (int): How many.
        spearman (float): Rank correlation of predicted and measured times.
        spearman_macs (float): That of multiply-accumulates and measured times.
        pairs (int): Pairs of networks within ±10 % of multiply-accumulates.
        in_band (float): Share of them whose faster network is predicted.
        in_band_macs (float): Share of them whose faster network has fewer multiply-accumulates.
        median_error (float): |predicted / measured - 1|, the median.
        largest_error (float): The largest.
    """

    networks: int
    spearman: float
    spearman_macs: float
    pairs: int
    in_band: float
    in_band_macs: float
    median_error: float
    largest_error: float

    def require(self, source: str = 'The latency model') -> None:
        """Refuse a model that ranks networks too badly to be searched with.

        Args:
            source (str): What the message calls it.

        Raises:
            SearchError: The rank correlation is below 0.95, or within ±10 % of multiply-accumulates it ranks no better
                than those do.
        """
        again = (
            'Measure on a quiet machine with more rounds, or more networks; where it stays so, the engine has costs '
            'that these features do not tell.'
        )
        if not self.spearman >= LEAST_SPEARMAN:
            raise SearchError(
                f'{source} ranks the {self.networks} networks that it was fitted to with a Spearman correlation of '
                f'{self.spearman:.3f} (leave-one-out); expected at least {LEAST_SPEARMAN}. {again}'
            )
        if self.pairs < LEAST_PAIRS:
            raise SearchError(
                f'{source} has {self.pairs} pairs of networks within ±{BAND:.0%} of multiply-accumulates; expected at '
                f'least {LEAST_PAIRS}, by which it is compared with these alone. Measure more networks.'
            )
        if not self.in_band > self.in_band_macs:
            raise SearchError(
                f'{source} finds the faster of two networks within ±{BAND:.0%} of multiply-accumulates in '
                f'{self.in_band:.0%} of {self.pairs} pairs, and multiply-accumulates alone in {self.in_band_macs:.0%}: '
                f'expected more. {again}'
            )


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds as a sum of what each feature costs.

    Args:
        weights (dict[str, float]): Milliseconds of one of each feature, and of the rest; none is negative.
        check (Check): How well it ranks.
    """

    weights: dict[str, float]
    check: Check

    @classmethod
    def fit(cls, features: Sequence[Features], milliseconds: Sequence[float]) -> 'LatencyModel':
        """Fit a model to measured networks, to the least sum of squared relative errors.

        Args:
            features (Sequence[dict]): Of each network, as :func:`features_of` gives them.
            milliseconds (Sequence[float]): Its measured time.

        Raises:
            SearchError: There are too few networks, or a time is not positive.
        """
        times = np.asarray(milliseconds, float)
        if len(features) != len(times) or len(times) < LEAST_NETWORKS or not (times > 0).all():
            raise SearchError(
                f'A latency model of {len(features)} networks and {len(times)} times was asked for; expected at least '
                f'{LEAST_NETWORKS} networks, each with a time above 0.'
            )
        table = _table(features)
        weights = dict(zip((*FEATURES, REST), _solve(table, times).tolist(), strict=True))
        return cls(weights, _check(table, times, np.array([mmacs(own) for own in features])))

    def predict(self, features: Features) -> float:
        """The milliseconds of a network.

        Args:
            features (dict): As :func:`features_of` gives them, for the same size of images.
        """
        return self.weights[REST] + sum(self.weights[name] * features[name] for name in FEATURES)

    def to_dict(self) -> dict:
        """All as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping) -> 'LatencyModel':
        """The opposite of :meth:`to_dict`."""
        return cls(dict(content['weights']), Check(**content['check']))


def steady(features: Sequence[Features], milliseconds: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """Times as if the machine had kept one pace in all groups of networks that were measured in turns.

    The pace of a group is the median of what its networks took by what a regression on all says, which is fitted anew
    with the paces that it finds. Where the paces differ by chance alone, this changes little.

    Args:
        features (Sequence[dict]): Of each network.
        milliseconds (Sequence[float]): Its measured time.
        groups (Sequence): Which group it was measured in; those of fewer than 5 networks keep their times.
    """
    times = np.asarray(milliseconds, float)
    table = _table(features)
    places = [np.array([own == group for own in groups]) for group in dict.fromkeys(groups)]
    places = [place for place in places if place.sum() >= LEAST_GROUP]
    if len(places) < 2 or len(times) < LEAST_NETWORKS:
        return times.tolist()
    for _ in range(ROUNDS):
        ratios = times / (table @ _solve(table, times))
        paces = [float(np.median(ratios[place])) for place in places]
        for place, pace in zip(places, paces, strict=True):
            times[place] *= np.median(paces) / pace
    return times.tolist()


def _table(features: Sequence[Features]) -> np.ndarray:
    return np.array([[own[name] for name in FEATURES] + [1.0] for own in features])


def _solve(table: np.ndarray, times: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.abs(table).max(0), 1e-12)  # features differ by orders of magnitude
    return nnls(table / scale / times[:, None], np.ones(len(times)))[0] / scale


def _check(table: np.ndarray, times: np.ndarray, macs: np.ndarray) -> Check:
    others = [np.arange(len(times)) != index for index in range(len(times))]
    predicted = np.array([row @ _solve(table[rest], times[rest]) for row, rest in zip(table, others, strict=True)])
    errors = np.abs(predicted / times - 1)
    pairs = near_pairs(macs)
    return Check(
        networks=len(times),
        spearman=spearman(predicted, times),
        spearman_macs=spearman(macs, times),
        pairs=len(pairs),
        in_band=agreement(predicted, times, pairs),
        in_band_macs=agreement(macs, times, pairs),
        median_error=float(np.median(errors)),
        largest_error=float(errors.max()),
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation of two lists; 0 where all values of one are equal."""
    if len(set(map(float, one))) < 2 or len(set(map(float, other))) < 2:
        return 0.0
    return float(spearmanr(one, other).statistic)


def near_pairs(macs: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of networks whose multiply-accumulates differ by at most 10 % of their mean."""
    return [
        (i, j) for i in range(len(macs)) for j in range(i) if abs(macs[i] - macs[j]) <= BAND * (macs[i] + macs[j]) / 2
    ]


def agreement(one: Sequence[float], other: Sequence[float], pairs: Sequence[tuple[int, int]]) -> float:
    """The share of pairs that two lists order alike; a tie counts half, and no pair at all is 0."""
    found = [0.5 + 0.5 * np.sign((one[i] - one[j]) * (other[i] - other[j])) for i, j in pairs]
    return float(np.mean(found)) if found else 0.0
