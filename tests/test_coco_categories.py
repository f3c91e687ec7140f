"""Categories as exporters write them: repeated, under two ids, placeholders; and files that list them differently."""

import pytest

from frostnet_mm.data import DatasetError
from frostnet_mm.data.coco_categories import fit_classes, settle_categories


def data_of(*categories, used=()):
    """Categories (id, name) or (id, name, supercategory), and one annotation a used category id."""
    keys = ('id', 'name', 'supercategory')
    return dict(
        categories=[dict(zip(keys, category, strict=False)) for category in categories],
        annotations=[dict(id=number, category_id=value) for number, value in enumerate(used, start=1)],
    )


def named(data):
    return [(category['id'], category['name']) for category in data['categories']]


def used(data):
    return [annotation['category_id'] for annotation in data['annotations']]


def test_sound_categories_need_no_word():
    data = data_of((1, 'person', 'person'), (2, 'bus', 'vehicle'), (3, 'car', 'vehicle'), used=[1, 2])
    assert settle_categories(data, 'a.json') == [] and named(data) == [(1, 'person'), (2, 'bus'), (3, 'car')]


def test_repetitions_are_merged():
    data = data_of(*[(1, 'cat'), (2, 'dog')] * 5, used=[1, 2, 2])
    text = "'a.json': 8 categories are repetitions (same id, same name) and merged."
    assert settle_categories(data, 'a.json') == [text]
    assert named(data) == [(1, 'cat'), (2, 'dog')] and used(data) == [1, 2, 2]


def test_a_name_under_two_ids_is_one_class():
    data = data_of((1, 'cat'), (2, 'dog'), (7, 'cat'), (9, ' cat'), used=[7, 1, 2, 9])
    assert settle_categories(data, 'a.json') == [
        "'a.json': blanks around 1 category names are taken off: ' cat'.",
        "'a.json': 2 categories have the name of another id and are taken as one class: 'cat' (1 and 7), 'cat' (1 and "
        '9).',
    ]
    assert named(data) == [(1, 'cat'), (2, 'dog')] and used(data) == [1, 1, 2, 1]


def test_an_id_with_two_names_is_an_error():
    with pytest.raises(DatasetError, match="a.json.*1 is the id of 'cat' and of 'dog'.*new ids"):
        settle_categories(data_of((1, 'cat'), (1, 'dog')), 'a.json')


@pytest.mark.parametrize(
    'placeholder, others',
    [
        ((0, 'cells', 'none'), [(1, 'RBC', 'cells'), (2, 'WBC', 'cells')]),
        (('0', 'cells', None), [('1', 'RBC', 'cells'), ('2', 'WBC', 'other')]),
        ((5, 'cells'), [(1, 'RBC', 'cells'), (2, 'WBC', 'cells')]),
        ((0, '_background_', None), [(1, 'RBC', None)]),
        ((3, '__ignore__'), [(1, 'RBC')]),
        ((0, 'Background', 'cells'), [(1, 'RBC', 'cells')]),
    ],
)
def test_placeholders_without_objects_are_no_classes(placeholder, others):
    data = data_of(placeholder, *others, used=[others[0][0]])
    message = f"'a.json': 1 categories without objects are placeholders and no classes: {placeholder[1]!r}."
    assert settle_categories(data, 'a.json') == [message]
    assert named(data) == [category[:2] for category in others]
    data = data_of(placeholder, *others, used=[placeholder[0]])  # with an object it is a class
    assert settle_categories(data, 'a.json') == [] and len(data['categories']) == len(others) + 1


@pytest.mark.parametrize(
    'categories',
    [
        [(0, 'cells', 'none'), (1, 'RBC', 'none')],  # nobody's supercategory
        [(0, 'cat', 'cat'), (1, 'dog', 'cat')],  # has a supercategory
        [(2, 'vehicle', 'none'), (1, 'car', 'vehicle'), (3, 'person', 'none')],  # neither id 0 nor everybody's
        [(0, 'background')],  # the only one
    ],
)
def test_classes_that_merely_have_no_objects_stay(categories):
    data = data_of(*categories)
    assert settle_categories(data, 'a.json') == [] and len(data['categories']) == len(categories)


# --- a config's classes


def test_other_ids_and_order_are_taken_by_name():
    data = data_of((12, 'b'), (11, 'a'), used=[12])
    messages, left_out, dropped = fit_classes(data, ('a', 'b'), 'v.json')
    assert named(data) == [(11, 'a'), (12, 'b')] and (left_out, dropped) == ([], 0)
    assert len(messages) == 1 and "in another order than the config's classes ('a', 'b')" in messages[0]


def test_capitals_and_blanks_are_understood_where_one_can_be_meant():
    data = data_of((1, 'red cell'), (2, 'wbc'), used=[1, 2])
    assert fit_classes(data, ('Red  Cell', 'WBC'), 'v.json') == (
        ["'v.json': 2 categories differ from the config's classes in capitals or blanks: read 'red cell' as "
         "'Red  Cell', 'wbc' as 'WBC'."], [], 0,
    )  # fmt: skip
    assert named(data) == [(1, 'Red  Cell'), (2, 'WBC')]
    for categories, classes in (([(1, 'WBC'), (2, 'Wbc')], ('wbc',)), ([(1, 'wbc')], ('WBC', 'Wbc'))):
        with pytest.raises(DatasetError, match='v.json'):
            fit_classes(data_of(*categories, used=[1]), classes, 'v.json')


def test_absent_classes_without_objects_are_added():
    data = data_of((3, 'b'), used=[3])
    messages, _, _ = fit_classes(data, ('a', 'b', 'c'), 'v.json', evaluated=True)
    assert named(data) == [(4, 'a'), (3, 'b'), (5, 'c')]
    text = "2 of the config's 3 classes are not in its categories and have no objects: 'a', 'c'."
    assert messages == [f"'v.json': {text}"]
    data = data_of(('x', 'b'), used=['x'])
    fit_classes(data, ('a', 'b'), 'v.json')
    assert named(data) == [('without objects 0', 'a'), ('x', 'b')]


def test_absent_classes_and_objects_of_others_are_an_error():
    with pytest.raises(DatasetError) as caught:
        fit_classes(data_of((1, 'a'), (2, 'platelet'), used=[1, 2]), ('a', 'platelets'), 'v.json', evaluated=True)
    text = str(caught.value)
    assert text.startswith(
        "'v.json' lacks 1 of the config's 2 classes: 'platelets', and has objects of others: 'platelet'. The config "
        "has 'a', 'platelets'; the json has 'a', 'platelet'. Name the classes in this file as in the training file"
    )
    assert 'configs/' not in text  # the config in use may be the one that reads classes
    with pytest.raises(DatasetError, match='lacks 2 of .*such as configs/ssdlite_frostnet_custom.py'):
        fit_classes(data_of((1, 'x'), used=[]), ('a', 'b'), 't.json')


def test_what_the_config_leaves_out_follows():
    data = data_of((1, 'a'), (2, 'b'), (3, 'c'), used=[2, 2, 3])
    assert fit_classes(data, ('c', 'a'), 't.json')[1:] == (['b'], 2)
    assert named(data) == [(3, 'c'), (1, 'a'), (2, 'b')]
