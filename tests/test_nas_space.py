"""The networks that a search chooses from: counted by hand, recognized, suggested, refused."""

import itertools
import random
import re

import pytest
from test_frostnet import FUSED_660

from frostnet_mm.models.frostnet_arch import ARCHS, BlockSpec, FrostNetArch
from frostnet_mm.nas.architectures import canonical, count_weights, key
from frostnet_mm.nas.errors import SearchError
from frostnet_mm.nas.space import SearchSpace

TINY = dict(
    stem=16,
    stages=[[(3, 16, 1, 1, 1), (3, 24, 3, 2, 2)], [(5, 40, 3, 4, 2), (3, 40, 2, None, 1)]],
)
OPTIONS = dict(kernels=(3, 5), expansions=(2, 3), reductions=(None, 2), kinds=('frost', 'fused'))


@pytest.fixture(scope='module')
def tiny():
    return SearchSpace(TINY, **OPTIONS)


class Trial:
    """What is asked of a trial of Optuna."""

    def __init__(self, choose):
        self.choose, self.asked = choose, {}

    def suggest_categorical(self, name, choices):
        assert isinstance(choices, list) and all(value is None or isinstance(value, (str, int)) for value in choices)
        self.asked[name] = choices
        return self.choose(name, choices)

    def suggest_int(self, name, low, high):
        self.asked[name] = (low, high)
        return self.choose(name, list(range(low, high + 1)))


def test_the_size_by_hand(tiny):
    """Frost: 2 kernels x 2 expansions x 2 reductions; fused: 3x3 alone x 2 expansions; the last block may be missing.

    The block of expansion 1 stays as it is.
    """
    assert tiny.size == 10 * (10 + 10 * 10)
    assert [len(run.positions) for run in tiny.runs] == [1, 1, 2]
    assert [len(position.rows) for run in tiny.runs for position in run.positions] == [1, 10, 10, 10]
    # 16 // 4 = 4 channels are no squeeze, so that the ratio of 4 is no squeeze there, and one elsewhere
    space = SearchSpace(TINY, **OPTIONS | dict(reductions=(None, 4)))
    assert [len(position.rows) for run in space.runs for position in run.positions] == [1, 6, 6, 10]


def test_smallest_and_largest_by_hand(tiny):
    least = [[(3, 16, 1, None, 1), (3, 24, 2, None, 2)], [(3, 40, 2, None, 2)]]
    most = [[(3, 16, 1, None, 1), (3, 24, 3, None, 2, 'fused')], [(3, 40, 3, None, 2, 'fused')]]
    most[1].append((3, 40, 3, None, 1, 'fused'))
    assert tiny.smallest.to_config() == dict(stem=16, stages=least)
    assert tiny.largest.to_config() == dict(stem=16, stages=most)
    frost = SearchSpace(TINY, **OPTIONS | dict(kinds=('frost',)))
    assert frost.largest.stages[1] == (BlockSpec(5, 40, 3, 2, 2), BlockSpec(5, 40, 3, 2, 1))
    assert count_weights(24, BlockSpec(3, 40, 3, None, 2, 'fused')) == 24 * 72 * 9 + 2 * 72 + 72 * 40 + 2 * 40


def test_networks_are_counted_once_and_samples_are_among_them(tiny):
    one = TINY['stages'][0][0]
    blocks = [
        [(kernel, width, expansion, *rest)]
        for width, stride in ((24, 2), (40, 2), (40, 1))
        for rest in ((None, stride), (2, stride), (None, stride, 'fused'))
        for kernel in ((3, 5) if len(rest) == 2 else (3,))
        for expansion in (2, 3)
    ]
    stages = [
        [[one, *a], [*b, *c]] for a, b in itertools.product(blocks[:10], blocks[10:20]) for c in ([], *blocks[20:])
    ]
    every = {tiny.key(dict(stem=16, stages=own)): dict(stem=16, stages=own) for own in stages}
    assert len(every) == len(stages) == tiny.size and all(map(tiny.contains, every.values()))
    rng = random.Random(0)
    found = {tiny.key(arch): arch for arch in (tiny.sample(rng) for _ in range(3000))}
    assert set(found) < set(every) and len(found) > 600
    assert all(canonical(arch) == arch for arch in found.values())
    kinds = [tiny.sample(rng).stages[0][1].kind for _ in range(1000)]
    assert 450 < kinds.count('fused') < 550  # not one fifth, which its share of the rows is
    assert [tiny.sample(random.Random(3)) for _ in range(2)] == [tiny.sample(random.Random(3))] * 2


def test_trials_have_the_same_parameters_and_reach_every_network(tiny):
    rng = random.Random(0)
    trials = [Trial(lambda name, choices: rng.choice(choices)) for _ in range(3000)]
    archs = [tiny.suggest(trial) for trial in trials]
    fields = dict(kind=['frost', 'fused'], kernel=[3, 5], expansion=[2, 3], reduction=[None, 2])
    expected = {f'{name}.{field}': values for name in ('s0.b1', 's1.b0', 's1.b1') for field, values in fields.items()}
    assert all(trial.asked == expected | {'s1.r0.depth': (1, 2)} for trial in trials)
    assert all(tiny.contains(arch) for arch in archs) and len(set(map(key, archs))) > 500
    wanted = {'s0.b1.kind': 'fused', 's0.b1.kernel': 5, 's0.b1.reduction': 2, 's0.b1.expansion': 3, 's1.r0.depth': 1}
    arch = tiny.suggest(Trial(lambda name, choices: wanted.get(name, choices[0])))
    assert arch.stages[0][1] == BlockSpec(3, 24, 3, None, 2, 'fused')  # which has neither 5x5 nor a squeeze
    assert arch.stages[1] == (BlockSpec(3, 40, 2, None, 2),)
    wanted = {'s1.b1.kernel': 5, 's1.b1.reduction': 2, 's1.b1.expansion': 3, 's1.r0.depth': 2}
    arch = tiny.suggest(Trial(lambda name, choices: wanted.get(name, choices[0])))
    assert arch.stages[1][1] == BlockSpec(5, 40, 3, 2, 1)


def test_one_network_has_one_key():
    tables = [
        [[(3, 16, 1, 1, 1), (3, 24, 2, 4, 2)]],
        [[(3, 16, 1, None, 1), (3, 24, 2, None, 2)]],
        [[[3, 16, 1, None, 1, 'inverted'], [3, 24, 2, None, 2, 'inverted']]],
        [[(3, 14, 1, 1, 1, 'frost'), (3, 25, 2, 3, 2)]],  # channels are multiples of 8
    ]
    assert len({key(dict(stem=16, stages=stages)) for stages in tables}) == 1
    others = [[[(3, 16, 1, 1, 1), (3, 24, 2, 2, 2)]], [[(3, 16, 1, 1, 1), (3, 24, 2, None, 2, 'fused')]]]
    assert len({key(dict(stem=16, stages=stages)) for stages in (tables[0], *others)}) == 3
    assert (
        key('small') == '099ff421b281a704' == key(ARCHS['small'].to_config())
    )  # the same in every process and version
    assert FrostNetArch.from_config(canonical(FUSED_660).to_config()) == canonical(FUSED_660)


def test_what_is_in_the_space_and_what_is_not(tiny):
    space = SearchSpace('small')
    assert space.contains('small') and not space.contains('base') and not space.contains(FUSED_660)
    assert SearchSpace('small', widen_factor=0.5).contains(ARCHS['small'].widened(0.5))
    own = SearchSpace(FUSED_660, depths=[(1, 2), (1, 4), (1, 4), (1, 3), (1, 1)])
    assert own.contains(FUSED_660) and len(own.largest.stages[1]) == 4
    assert own.largest.stages[1][3].stride == 1 and own.largest.strides == ARCHS['small'].strides
    wrong = {
        'stem of 32 channels and 5 stages; expected 16 and 2': 'small',
        'arch.stages[1] has 3 blocks of 40 channels; expected 1 to 2.': [(3, 40, 2, 2, 2)] + [(3, 40, 2, 2, 1)] * 2,
        'arch.stages[1] has 2 groups of blocks of one width; expected 1.': [(3, 40, 2, None, 2), (3, 48, 2, 2, 1)],
        "arch.stages[1][0]=(7, 40, 2, None, 2, 'frost') is not in the space; expected kind of ['frost', 'fused'], "
        'kernel of [3, 5], expansion of [2, 3], reduction of [None, 2], channels 40 and stride 2.': [
            (7, 40, 2, None, 2)
        ],
        "arch.stages[1][0]=(3, 40, 2, None, 1, 'frost') is not in the space": [(3, 40, 2, None, 1)],
        "arch.stages[1][0]=(3, 48, 2, None, 2, 'frost') is not in the space": [(3, 48, 2, None, 2)],
    }
    for message, rows in wrong.items():
        arch = rows if isinstance(rows, str) else dict(TINY, stages=[TINY['stages'][0], rows])
        with pytest.raises(SearchError, match=re.escape(message)):
            tiny.locate(arch)
        assert not tiny.contains(arch)


def test_options_by_stage_and_by_kind():
    space = SearchSpace(
        TINY,
        kernels=[(3,), (3, 5)],
        expansions=[[2, 3], [4]],
        reductions=(None,),
        kinds=dict(frost={}, fused=dict(kernels=(5,), expansions=(2,), stages=(0,))),
        depths=(2, 3),
    )
    rows = [[tuple(row) for row in position.rows] for run in space.runs for position in run.positions]
    first = [(3, 24, 2, None, 2, 'frost'), (3, 24, 3, None, 2, 'frost'), (5, 24, 2, None, 2, 'fused')]
    assert rows[1] == first
    assert rows[2] == rows[3] == [(*row[:4], 1, row[5]) for row in first]  # further ones, of stride 1
    assert rows[4] == [(3, 40, 4, None, 2, 'frost'), (5, 40, 4, None, 2, 'frost')] and len(rows) == 7
    assert [run.depths for run in space.runs] == [range(1, 2), range(2, 4), range(2, 4)]


def test_stages_that_are_not_built_stay_as_they_are():
    whole, part = SearchSpace(TINY, **OPTIONS), SearchSpace(TINY, **OPTIONS, built=1)
    assert (whole.size, part.size) == (1100, 10)
    for arch in (part.smallest, part.largest, part.sample(random.Random(0))):
        assert arch.stages[1] == canonical(TINY).stages[1] and part.contains(arch)
    assert not part.contains(whole.largest)
    trial = Trial(lambda name, choices: choices[0])
    part.suggest(trial)
    assert set(trial.asked) == {f's0.b1.{field}' for field in ('kind', 'kernel', 'expansion', 'reduction')}


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernels=()), 'space.kernels=(): expected a list of at least one value.'),
        (dict(kernels=3), 'space.kernels=3: expected a list of at least one value.'),
        (dict(kinds='frost'), "space.kinds='frost': expected a list of at least one value."),
        (
            dict(kernels=(3, 4)),
            "space, of blocks of kind 'frost': kernel=4: expected an odd whole number of at least 1.",
        ),
        (dict(kernels=('3',)), "space, of blocks of kind 'frost': kernel='3': expected an odd whole number"),
        (
            dict(expansions=(2, 0)),
            "space, of blocks of kind 'frost': expansion=0: expected a whole number of at least 1",
        ),
        (
            dict(expansions=(1, 2)),
            'space.expansions has 1, which is a block without expansion: expected values from',
        ),
        (dict(reductions=(0,)), "of kind 'frost': reduction=0: expected None (no squeeze) or a whole number"),
        (dict(kinds=('frost', 'mbconv')), "space.kinds: 'mbconv': expected one of 'frost', 'inverted', 'fused'; the"),
        (dict(kernels=[(3,)]), 'space.kernels=[(3,)]: expected one list of values, or 2 of them, one for each stage.'),
        (dict(kernels=[(3,), ()]), 'space.kernels=[(3,), ()]: expected one list of values, or 2 of them'),
        (dict(depths=(0, 2)), 'space.depths=(0, 2) of stage 0: expected least and most blocks, such as (1, 4).'),
        (dict(depths=(3, 2)), 'space.depths=(3, 2) of stage 0: expected least and most blocks'),
        (dict(depths=[(1, 1), (1,)]), 'space.depths=(1,) of stage 1: expected least and most blocks'),
        (dict(kinds=dict(frost=dict(kernel=3))), "space.kinds['frost'] has 'kernel': expected kernels, expansions, "),
        (dict(kinds=dict(frost=3)), "space.kinds['frost'] has 3: expected kernels, expansions, reductions, stages."),
        (dict(kinds=dict(frost=dict(stages=(2,)))), "space.kinds['frost'].stages=(2,): expected indices from 0 to 1."),
        (dict(kinds=dict(frost=dict(stages=(1,)))), 'leaves stage 0 without any kind: name one for it.'),
        (
            dict(kernels=(3,), expansions=(2,), reductions=(None,), kinds=('frost', 'inverted'), depths=(1, 1)),
            'holds one network, so there is nothing to search: expected at least two values of kernels, expansions, ',
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(SearchError, match=re.escape(message)):
        SearchSpace(TINY, **OPTIONS | options)


def test_a_space_of_blocks_without_expansion_alone_is_refused():
    with pytest.raises(SearchError, match='Blocks of expansion 1 stay as they are'):
        SearchSpace(dict(stem=16, stages=[[(3, 16, 1, None, 1)], [(3, 24, 1, None, 2)]]))
    with pytest.raises(ValueError, match="FrostNet has no arch='medium'"):
        SearchSpace('medium')
