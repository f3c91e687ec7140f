"""The categories of a COCO json: what exporters repeat, placeholders, and the classes of a config against them."""

from collections.abc import Sequence

from .coco_paths import sample
from .errors import DatasetError

#: Names that annotation tools give to what is no object.
BACKGROUND_NAMES = ('_background_', '__background__', 'background', '__ignore__', '_ignore_')
CUSTOM_CONFIG = 'configs/ssdlite_frostnet_custom.py'


def settle_categories(data: dict, path: str) -> list[str]:
    """Merge categories that are repeated and drop placeholders, in place.

    - An id listed several times with one name is one category.
    - A name under several ids is one class: that of the first; the objects of the others get its id.
    - A placeholder has no objects, and either a name of :data:`BACKGROUND_NAMES`, or no supercategory (none, null)
      while other categories name it as theirs: all others, or some of them and its id is 0 (Roboflow's project).
      A class that only happens to have no object is none, and stays.

    Args:
        data (dict): Parsed annotation file; ids hashable, names strings.
        path (str): Annotation file, for messages.

    Returns:
        list[str]: What was done, one message a kind.

    Raises:
        DatasetError: If one id has several names.
    """
    messages = []
    for merge in (_strip_names, _merge_same_id, _merge_same_name, _drop_placeholders):
        text = merge(data, path)
        if text:
            messages.append(f"'{path}': {text}")
    return messages


def _strip_names(data: dict, path: str) -> str | None:
    padded = [category for category in data['categories'] if category['name'] != category['name'].strip()]
    names = [category['name'] for category in padded]
    for category in padded:
        category['name'] = category['name'].strip()
    return f'blanks around {len(names)} category names are taken off: {sample(names)}.' if names else None


def _merge_same_id(data: dict, path: str) -> str | None:
    first: dict = {}
    for category in data['categories']:
        kept = first.setdefault(category['id'], category)
        if kept['name'] != category['name']:
            raise DatasetError(
                f"'{path}': duplicate ids in 'categories', expected each once: {category['id']!r} is the id of "
                f'{kept["name"]!r} and of {category["name"]!r}, so that nobody can tell which its annotations mean. '
                'Where files were joined, give the categories of one new ids, in its annotations as well.'
            )
    repeated = len(data['categories']) - len(first)
    data['categories'] = list(first.values())
    return f'{repeated} categories are repetitions (same id, same name) and merged.' if repeated else None


def _merge_same_name(data: dict, path: str) -> str | None:
    first: dict = {}
    aliases = {}
    for category in data['categories']:
        kept = first.setdefault(category['name'], category)
        if kept is not category:
            aliases[category['id']] = kept
    if not aliases:
        return None
    for annotation in data['annotations']:
        if annotation['category_id'] in aliases:
            annotation['category_id'] = aliases[annotation['category_id']]['id']
    data['categories'] = list(first.values())
    how = ', '.join(f'{kept["name"]!r} ({kept["id"]!r} and {other!r})' for other, kept in list(aliases.items())[:3])
    return f'{len(aliases)} categories have the name of another id and are taken as one class: {how}.'


def _drop_placeholders(data: dict, path: str) -> str | None:
    used = {annotation['category_id'] for annotation in data['annotations']}
    dropped = [c for c in data['categories'] if c['id'] not in used and _is_placeholder(c, data['categories'])]
    if not dropped or len(dropped) == len(data['categories']):
        return None
    ids = {category['id'] for category in dropped}
    data['categories'] = [category for category in data['categories'] if category['id'] not in ids]
    names = [category['name'] for category in dropped]
    return f'{len(names)} categories without objects are placeholders and no classes: {sample(names)}.'


def _is_placeholder(category: dict, categories: list[dict]) -> bool:
    if category['name'].lower() in BACKGROUND_NAMES:
        return True
    if str(category.get('supercategory') or 'none').lower() != 'none':
        return False
    others = [other for other in categories if other is not category]
    below = sum(other.get('supercategory') == category['name'] for other in others)
    return bool(below) and (below == len(others) or str(category['id']) in ('0', '0.0'))


def fit_classes(
    data: dict, classes: Sequence[str], path: str, evaluated: bool = False
) -> tuple[list[str], list[str], int]:
    """Put the categories of a json into the order of a config's classes, in place, by name.

    Labels then agree with the config's, whatever ids and order the file has. Names may differ in capitals and blanks
    where that is unambiguous. A class that the file does not list is added, without objects, as long as the file has no
    objects of other names, one of which might be meant.

    Args:
        data (dict): Parsed annotation file, its categories settled.
        classes (Sequence[str]): The config's class names.
        path (str): Annotation file, for messages.
        evaluated (bool): Whether it is not the training file. Default: False.

    Returns:
        tuple[list[str], list[str], int]: What was done, one message a kind; the categories of the json that the config
        leaves out; the number of annotations that these have.

    Raises:
        DatasetError: If names are repeated, or missing in the json, or ``classes`` is a string.
    """
    if isinstance(classes, str):
        raise DatasetError(f"metainfo classes={classes!r} is a string, expected a tuple: classes=('{classes}', ).")
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated:
        raise DatasetError(f"'{path}': duplicate names in metainfo classes, expected each once: {sample(repeated)}.")
    stated = [category['name'] for category in data['categories']]
    matched = _match(classes, data['categories'])
    left_out = [category for category in data['categories'] if all(category is not found for found in matched.values())]
    lacking = [name for name in classes if name not in matched]
    ids = {category['id'] for category in left_out}
    used = [annotation['category_id'] for annotation in data['annotations'] if annotation['category_id'] in ids]
    if lacking and (used or not matched):
        others = [category['name'] for category in left_out if category['id'] in used]
        _refuse_classes(classes, lacking, stated, others, path, evaluated)
    messages = _renamed(matched, path)
    order = [matched[name]['name'] for name in classes if name in matched]
    if order != [name for name in stated if name in set(order)]:
        messages.append(
            f"'{path}': its categories are in another order than the config's classes ({sample(order, 8)}); they are "
            "taken by name. mmdet's own CocoMetric would name them wrongly: frostnet_mm.CocoMetric does not."
        )
    if lacking:
        messages.append(
            f"'{path}': {len(lacking)} of the config's {len(classes)} classes are not in its categories and have no "
            f'objects: {sample(lacking, 8)}.'
        )
    new_ids = iter(_unused_ids(data['categories'], len(lacking)))
    fitted = []
    for name in classes:
        fitted.append(dict(matched[name], name=name) if name in matched else dict(id=next(new_ids), name=name))
    data['categories'] = [*fitted, *left_out]
    return messages, [category['name'] for category in left_out], len(used)


def _match(classes: Sequence[str], categories: list[dict]) -> dict[str, dict]:
    """The category of each class that has one: of the same name, else the only one that differs by capitals."""
    by_name = {category['name']: category for category in categories}
    matched = {name: by_name[name] for name in classes if name in by_name}
    free = [category for category in categories if category['name'] not in matched]
    for name in classes:
        alike = [category for category in free if _plain(category['name']) == _plain(name)]
        rivals = [other for other in classes if other not in by_name and _plain(other) == _plain(name)]
        if name not in matched and len(alike) == len(rivals) == 1:
            matched[name] = alike[0]
    return matched


def _plain(name: str) -> str:
    return ' '.join(name.casefold().split())


def _renamed(matched: dict[str, dict], path: str) -> list[str]:
    renamed = [f'{category["name"]!r} as {name!r}' for name, category in matched.items() if category['name'] != name]
    if not renamed:
        return []
    return [f"'{path}': {len(renamed)} categories differ from the config's classes in capitals or blanks: read "
            f'{", ".join(renamed[:5])}.']  # fmt: skip


def _unused_ids(categories: list[dict], count: int) -> list:
    ids = {category['id'] for category in categories}
    if any(isinstance(value, str) for value in ids):
        return [f'without objects {number}' for number in range(count)]
    start = int(max(ids)) + 1
    return list(range(start, start + count))


def _refuse_classes(
    classes: Sequence[str], lacking: list, stated: list, others: list, path: str, evaluated: bool
) -> None:
    advice = (
        'Name the classes in this file as in the training file (capitals and order may differ), or name them in '
        'metainfo=dict(classes=(...)) of the data sets.'
        if evaluated
        else "Set metainfo=dict(classes=(...)) to the file's names, or use a config that reads them from the json, "
        f'such as {CUSTOM_CONFIG}.'
    )
    foreign = f', and has objects of others: {sample(others, 8)}' if others else ''
    raise DatasetError(
        f"'{path}' lacks {len(lacking)} of the config's {len(classes)} classes: {sample(lacking, 8)}{foreign}. "
        f'The config has {sample(list(classes), 8)}; the json has {sample(stated, 8)}. {advice}'
    )
