"""The tables and the picture of numerics_study.py, from the metrics of its runs."""

from collections.abc import Iterator, Mapping
from statistics import mean, stdev

from _numerics_plan import CLASSIFIERS, SEGMENTERS, Plan, Run, bases
from _runs import main_value

from frostnet_mm.files import png_of

ARITHMETICS = ('float', 'simulated', 'converted')
Known = Mapping[Run, dict]


def paired(first: dict[int, float], second: dict[int, float]) -> tuple[float, float | None, int]:
    """The mean difference of the seeds that both have, its standard error, and how many there are."""
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return float('nan'), None, 0
    error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
    return mean(differences), error, len(differences)


def groups(known: Known) -> dict[tuple[str, str, str, int], dict[int, float]]:
    """Metrics by seed of each model, numerics, variant and warm-up."""
    found: dict = {}
    for own, metrics in known.items():
        found.setdefault(own.place, {})[own.seed] = main_value(metrics)
    return found


def table(known: Known, plan: Plan) -> Iterator[str]:
    """All that there is, as a markdown table; differences are to QAT from the first step, and to float."""
    found, wanted = groups(known), {}
    for own in (own for runs in plan.rows.values() for own in runs):
        wanted.setdefault(own.place, set()).add(own.seed)
    yield (
        '| model | numerics | variant | seeds | mean | spread | against QAT from the first step | against StatAssist | '
        'against float |'
    )
    yield '|---|---|---|---|---|---|---|---|---|'
    for place in wanted:
        model, numerics, variant, warmup = place
        values = found.get(place)
        if values is None:
            none = ' | '.join('–' * 5)
            yield f'| {model} | {numerics or "float"} | {named(*place)} | 0 of {len(wanted[place])} | {none} |'
            continue
        seeds = ', '.join(f'{values[seed]:.3f}' for seed in sorted(values))
        seeds += f' ({len(values)} of {len(wanted[place])})' * (len(values) < len(wanted[place]))
        spread = f'{stdev(values.values()):.3f}' if len(values) > 1 else '–'
        reference, ours = bases(variant)
        without = ('float', 'ptq')
        others = (
            {} if variant in without else found.get((model, numerics, *reference), {}),
            {} if variant in (*without, reference[0]) else found.get((model, numerics, *ours), {}),
            found.get((model, '', 'float', 0), {}),
        )
        cells = ['–' if other is values else _difference(*paired(values, other)) for other in others]
        mean_ = f'{mean(values.values()):.3f}'
        name = named(*place)
        yield f'| {model} | {numerics or "float"} | {name} | {seeds} | {mean_} | {spread} | {" | ".join(cells)} |'


def engine_table(known: Known, plan: Plan) -> Iterator[str]:
    """What engines gave of each model, numerics and variant, beside the integers that they were given."""
    order = {own: None for runs in plan.rows.values() for own in runs if own in known}
    found: dict[tuple, list[tuple[float, float]]] = {}
    for own in order:
        for engine in known[own]:
            if engine not in ARITHMETICS:
                values = main_value(known[own]), main_value(dict(float=known[own][engine]))
                found.setdefault((*own.place, engine), []).append(values)
    if not found:
        return
    yield '| model | numerics | variant | engine | runs | integers, mean | engine, mean | largest difference |'
    yield '|---|---|---|---|---|---|---|---|'
    for (*place, engine), pairs in found.items():
        integers, own = (mean(values) for values in zip(*pairs, strict=True))
        most = max((second - first for first, second in pairs), key=abs)
        cells = (place[0], place[1], named(*place), engine, len(pairs), f'{integers:.3f}', f'{own:.3f}', f'{most:+.3f}')
        yield f'| {" | ".join(map(str, cells))} |'


def classifier_table(known: Known, plan: Plan) -> Iterator[str]:
    """The classifiers: a line a network, a column a way to train it; top-1 of each seed on an engine, else as it is."""
    runs = [own for row in plan.rows.values() for own in row if own.model in CLASSIFIERS]
    ways = list(dict.fromkeys(own.place[1:] for own in runs))
    models = [name for name in dict.fromkeys(own.model for own in runs) if any(own.model == name for own in known)]
    if not models:
        return
    heads = [', '.join(part for part in (numerics, named('', numerics, *way)) if part) for numerics, *way in ways]
    yield f'| network | {" | ".join(heads)} |'
    yield '|---|' + '---|' * len(ways)
    for model in models:
        cells = []
        for way in ways:
            found = {own.seed: known[own] for own in runs if own.place == (model, *way) and own in known}
            cells.append(', '.join(f'{_deployed(found[seed]):.3f}' for seed in sorted(found)) or '–')
        yield f'| {model.removesuffix("-classifier")} | {" | ".join(cells)} |'


def _deployed(metrics: dict) -> float:
    """The metric on the first engine, if there is one."""
    engine = next((own for name, own in metrics.items() if name not in ARITHMETICS), None)
    return main_value(metrics) if engine is None else main_value(dict(float=engine))


def named(model: str, numerics: str, variant: str, warmup: int) -> str:
    """A variant in words."""
    unit = 'epoch' if warmup == 1 else 'epochs'
    return variant + (f', {warmup} {unit}' if warmup and model not in SEGMENTERS else '')


def _difference(value: float, error: float | None, pairs: int) -> str:
    if not pairs:
        return '–'
    return f'{value:+.3f}' + (f' ± {error:.3f}' if error is not None else '') + f' ({pairs})'


def draw(known: Known) -> bytes:
    """Each variant's difference to QAT from the first step, or to StatAssist that it is added to, seed by seed."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    found = groups(known)
    places = sorted(place for place in found if place[2] not in ('float', 'ptq', bases(place[2])[0][0]))
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.35 * max(1, len(places))), dpi=130, layout='constrained')
    for row, (model, numerics, variant, warmup) in enumerate(places):
        reference, ours = bases(variant)
        base = reference if (variant, warmup) == ours or model in SEGMENTERS else ours
        own, other = found[model, numerics, variant, warmup], found.get((model, numerics, *base), {})
        differences = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
        if differences:
            axis.plot(differences, [row] * len(differences), 'o', color='tab:blue', alpha=0.6)
            axis.plot(mean(differences), row, '|', color='black', markersize=14)
    axis.axvline(0, color='grey', linewidth=0.8)
    labels = [f'{place[0]}, {place[1]}: {named(*place)}' for place in places]
    axis.set_yticks(range(len(places)), labels)
    axis.set_xlabel(
        'INT8 metric, same seed: StatAssist less QAT from the first step, the others less StatAssist; bar: mean'
    )
    axis.grid(axis='x', alpha=0.25)
    return png_of(figure)
