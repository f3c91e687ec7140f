"""What a search leaves: its results as data, as a picture, as a page, and as a table for the console."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..benchmark.measure.machine import describe_line, describe_machine
from ..benchmark.report.html import Section, page
from ..benchmark.report.tables import NONE, markdown_table, number
from ..benchmark.store import BUSY
from ..files import write_bytes, write_text
from .candidates import Candidate
from .features import mmacs
from .front import hypervolume
from .latency import Check
from .measured import MeasuredModel
from .plots import Picture, draw
from .settings import SearchSettings, threads
from .study import Found

RESULTS, PICTURE, PAGE = 'results.json', 'pareto.png', 'report.html'
HEADINGS = ('network', 'measured ms', '/ MobileNetV2', 'predicted ms', 'MMACs', 'metric', 'from')
Studies = Mapping[tuple[str, int], Sequence[Found]]


@dataclass
class Outcome:
    """All that a search has found.

    Args:
        config (str): The config.
        settings (SearchSettings): The options.
        check (Check): How well the latency model ranks.
        metric (str): Name of the metric.
        studies (Mapping): Networks that were evaluated, by sampler and seed.
        front (Mapping[str, Found]): The networks of the front that are written as configs, by name, the fastest first.
        known (Mapping[str, Candidate]): FrostNets of the release that lie in the space.
        features (Mapping[str, Mapping]): Of the networks of the front and of those FrostNets, by name.
        predicted (Mapping[str, float]): Milliseconds that the latency model predicts for these FrostNets.
        measured (Mapping[str, MeasuredModel]): Times, by the same names and those of other models.
        drawn (int): Networks that the study drew.
        files (Mapping[str, list[str]]): Configs by name.
        notes (list[str]): What the reader should know.
    """

    config: str
    settings: SearchSettings
    check: Check
    metric: str
    studies: Studies
    front: Mapping[str, Found]
    known: Mapping[str, Candidate]
    features: Mapping[str, Mapping[str, float]]
    predicted: Mapping[str, float]
    measured: Mapping[str, MeasuredModel]
    drawn: int
    files: Mapping[str, list[str]]
    notes: list[str] = field(default_factory=list)

    @property
    def own(self) -> Sequence[Found]:
        """The networks of the study that the front is of."""
        return self.studies[self.settings.sampler, self.settings.seed]

    @property
    def control(self) -> Sequence[Found]:
        """Those of random search: of the same seed, else of another one; none where it is the study itself."""
        if self.settings.sampler == 'random':
            return ()
        seeds = sorted((seed != self.settings.seed, seed) for sampler, seed in self.studies if sampler == 'random')
        return self.studies['random', seeds[0][1]] if seeds else ()

    def hypervolumes(self) -> dict[tuple[str, int], float]:
        """Of each study, up to the target, or to the slowest network of any study, and from a metric of 0."""
        points = [own.point for networks in self.studies.values() for own in networks]
        last = self.settings.target_ms or max((time for time, _ in points), default=0.0)
        return {
            place: hypervolume([own.point for own in networks], (last, 0.0)) for place, networks in self.studies.items()
        }


def table_of(outcome: Outcome) -> list[list[str]]:
    """The lines of the table: the front, then what it is compared with."""
    base = outcome.measured.get('MobileNetV2')
    lines = []
    for name, own in outcome.measured.items():
        front, known = outcome.front.get(name), outcome.known.get(name)
        features = outcome.features.get(name)
        value = front.value if front else known.value if known else None
        predicted = front.ms if front else outcome.predicted.get(name)
        mark = '*' if own.status == BUSY else ''
        lines.append(
            [
                name,
                f'{own.milliseconds:.2f}{mark}',
                number(own.milliseconds / base.milliseconds) if base else NONE,
                NONE if predicted is None else f'{predicted:.2f}',
                NONE if features is None else f'{mmacs(features):.0f}',
                NONE if value is None else f'{value:.4f}',
                'front' if front else 'supernet' if known else 'time only',
            ]
        )
    return lines


def picture_of(outcome: Outcome) -> Picture:
    """The picture of a search."""
    return Picture(
        metric=f'{outcome.settings.precision} {outcome.metric}',
        engine=f'{outcome.settings.engine} ({outcome.settings.precision}, {threads(outcome.settings.threads)})',
        sampler=outcome.settings.sampler,
        candidates=[own.point for own in outcome.own],
        random=[own.point for own in outcome.control],
        front=[
            (name.removeprefix('net_')[:4], own.point, outcome.measured[name].milliseconds)
            for name, own in outcome.front.items()
        ],
        known=[(name, (outcome.measured[name].milliseconds, own.value)) for name, own in outcome.known.items()],
        lines=[
            (name, own.milliseconds)
            for name, own in outcome.measured.items()
            if name not in outcome.front and name not in outcome.known
        ],
        target=outcome.settings.target_ms,
    )


def write_report(outcome: Outcome, folder: Path) -> str:
    """Write ``results.json``, ``pareto.png`` and ``report.html``.

    Args:
        outcome (Outcome): What was found.
        folder (Path): Of the search.

    Returns:
        str: The table, for the console.
    """
    machine = describe_machine()
    image, lines, volumes = draw(picture_of(outcome)), table_of(outcome), outcome.hypervolumes()
    write_bytes(folder / PICTURE, image)
    write_text(folder / RESULTS, json.dumps(_data(outcome, machine, volumes), indent=1, default=str))
    sections = [
        Section('Metric against time', plots=[(_caption(outcome), image)]),
        Section(
            'Networks',
            HEADINGS,
            lines,
            ['best' if name in outcome.front else '' for name, *_ in lines],
            notes=_notes(outcome),
        ),  # fmt: skip
        Section('Samplers', ('sampler', 'seed', 'networks', 'best metric', 'hypervolume'), _samplers(outcome, volumes)),
    ]
    if outcome.files:
        rows = [(name, *map(Path, files)) for name, files in outcome.files.items()]
        sections.append(
            Section(
                'Configs', ('network', 'float', 'quantization-aware'),
                [(name, *(path.name for path in paths)) for name, *paths in rows],
            )
        )  # fmt: skip
    title = f'Search of {Path(outcome.config).stem} on {outcome.settings.engine}'
    write_text(folder / PAGE, page(title, _about(outcome, machine), sections))
    return markdown_table(HEADINGS, lines)


def _caption(outcome: Outcome) -> str:
    return (
        f'{outcome.metric} of networks with the weights of the supernet, on the training images that were held back. '
        'Grey and crosses: milliseconds as predicted; blue: measured, joined with the prediction by a line.'
    )


def _about(outcome: Outcome, machine: Mapping) -> list[str]:
    own, check = outcome.settings, outcome.check
    target = 'no target' if own.target_ms is None else f'target {own.target_ms:g} ms'
    return [
        describe_line(machine),
        f'{outcome.config}: {own.engine} {own.precision}, {threads(own.threads)}, images of {own.shape[0]}x'
        f'{own.shape[1]}, {target}',
        f'{len(outcome.own)} networks evaluated of {outcome.drawn} drawn by {own.sampler}, seed {own.seed}; supernet '
        f'of {own.epochs} epochs; {own.val_fraction:.0%} of the training images held back, validation data not read',
        f'latency model: {check.networks} networks, Spearman {check.spearman:.3f} leave-one-out '
        f'(multiply-accumulates alone {check.spearman_macs:.3f}); within ±10 % of multiply-accumulates it finds the '
        f'faster of two in {check.in_band:.0%} ({check.in_band_macs:.0%})',
    ]


def _notes(outcome: Outcome) -> list[str]:
    notes = [
        'The metric is of weights that all networks share, and ranks networks; trained by itself a network has another '
        'one. Times are of the whole model, measured in turns.',
        *outcome.notes,
    ]
    if any(own.status == BUSY for own in outcome.measured.values()):
        notes.append('* measured while the machine was busy: an indication, no result.')
    return notes


def _samplers(outcome: Outcome, volumes: Mapping[tuple[str, int], float]) -> list[list[str]]:
    return [
        [sampler, str(seed), str(len(own)), f'{max((net.value for net in own), default=0):.4f}',
         f'{volumes[sampler, seed]:.4f}']
        for (sampler, seed), own in outcome.studies.items()
    ]  # fmt: skip


def _data(outcome: Outcome, machine: Mapping, volumes: Mapping[tuple[str, int], float]) -> dict:
    front = {
        name: asdict(own) | dict(measured_ms=outcome.measured[name].milliseconds, configs=outcome.files.get(name, []))
        for name, own in outcome.front.items()
    }
    return dict(
        config=outcome.config,
        settings=outcome.settings.to_dict(),
        machine=dict(machine),
        latency=asdict(outcome.check),
        metric=outcome.metric,
        drawn=outcome.drawn,
        front=front,
        known={name: asdict(own) for name, own in outcome.known.items()},
        measured={name: own.to_dict() for name, own in outcome.measured.items()},
        studies=[
            dict(sampler=sampler, seed=seed, hypervolume=volumes[sampler, seed], networks=list(map(asdict, networks)))
            for (sampler, seed), networks in outcome.studies.items()
        ],
        notes=outcome.notes,
    )
