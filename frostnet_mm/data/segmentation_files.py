"""Where the images and labels of a segmentation data set are, and what their headers say."""

import os
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmengine.fileio import list_dir_or_file
from PIL import Image, UnidentifiedImageError

from .cityscapes import LABEL_IDS_SUFFIX, TRAIN_IDS_SUFFIX
from .coco_paths import list_folder, list_nearest, sample
from .errors import DECODE_ERRORS, DatasetNotFoundError

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.avif', '.jp2')
WHERE = (
    'If the data lie elsewhere, --cfg-options data_root=/path says where. docs/data.md describes the folders of '
    'Cityscapes and of data of your own'
)
_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
_WITH_EXIF = ('JPEG', 'MPO')  # whose header has it; a PNG would be decoded for it


class Pair(NamedTuple):
    """An image and its label, which a test set may lack."""

    image: str
    label: str | None


class Fault(NamedTuple):
    """What is wrong with a pair: the kind, for counting, and the whole story of this file."""

    kind: str
    text: str


def check_folders(root: str | None, image_dir: str, label_dir: str | None, ann_file: str) -> None:
    """Check that the folders of a data set exist, and its list of images if it has one.

    Raises:
        DatasetNotFoundError: One does not. The message says what is there instead.
    """
    places = [('data root', root), ('image folder', image_dir or '.'), ('label folder', label_dir)]
    for what, path in places:
        if path and not osp.isdir(path):
            raise DatasetNotFoundError(_absent(what, path))
    if ann_file and not osp.exists(ann_file):
        raise DatasetNotFoundError(_absent('list of images (ann_file)', ann_file))


def _absent(what: str, path: str) -> str:
    is_file = ', it is a file' if osp.isfile(path) else ''
    return f"The {what} '{path}' does not exist{is_file}; {list_nearest(path)}. {WHERE}."


def list_names(ann_file: str, suffix: str) -> list[str]:
    """The names, without suffix, that a list of images holds, one a line; lines may end in the suffix."""
    with open(ann_file, encoding='utf-8-sig') as file:
        return [line.strip().removesuffix(suffix) for line in file if line.strip()]


def find_images(
    image_dir: str, suffix: str, label_dir: str | None, label_suffixes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Find the images of a folder and its sub-folders.

    Args:
        image_dir (str): The folder.
        suffix (str): How the names of the images end, such as '_leftImg8bit.png'.
        label_dir (str, optional): Folder of the labels.
        label_suffixes (Sequence[str]): How the names of the labels end, one of these.

    Returns:
        tuple[list[str], list[str]]: Names below the folder of those that end so; and of those that end so but for
        their extension (.jpg, .JPG), whose name is not among the first, and that have a label.
    """
    stem_suffix = _without_extension(suffix)
    exact, others = [], []
    for name in list_dir_or_file(dir_path=image_dir or '.', list_dir=False, recursive=True):
        if name.endswith(suffix):
            exact.append(name)
        elif osp.splitext(name)[1].lower() in IMAGE_EXTENSIONS and osp.splitext(name)[0].endswith(stem_suffix):
            others.append(name)
    known = {name.removesuffix(suffix) for name in exact}
    found = []
    for name in sorted(others):
        stem = osp.splitext(name)[0]
        stem = stem[: len(stem) - len(stem_suffix)]
        has_label = label_dir is not None and any(osp.isfile(osp.join(label_dir, stem + end)) for end in label_suffixes)
        if stem not in known and (has_label or (label_dir is None and not exact)):
            known.add(stem)
            found.append(name)
    return sorted(exact), found


def _without_extension(suffix: str) -> str:
    """What stands in a suffix before the extension: nothing in '.jpg', which splitext takes for a name."""
    before, _, extension = suffix.rpartition('.')
    return before if f'.{extension.lower()}' in IMAGE_EXTENSIONS else suffix


def stem_of(name: str, suffix: str) -> str:
    """The name of an image without its suffix, of which the extension may be another one."""
    if name.endswith(suffix):
        return name[: len(name) - len(suffix)]
    stem_suffix = _without_extension(suffix)
    stem = osp.splitext(name)[0]
    return stem[: len(stem) - len(stem_suffix)]


def no_images_message(image_dir: str, suffix: str) -> str:
    """Say that a folder holds no image that ends as expected, and how those end that it holds."""
    listed = list_dir_or_file(dir_path=image_dir or '.', list_dir=False, recursive=True)
    names = sorted(name for name in listed if osp.splitext(name)[1].lower() in IMAGE_EXTENSIONS)
    message = f"No file in '{image_dir or '.'}' or below ends in '{suffix}' (img_suffix of the data set)"
    if not names:
        return f'{message}, nor is there any other image; {list_folder(image_dir or ".")}. {WHERE}.'
    return (
        f'{message}. There are {len(names)} other images, such as {sample(names, 2)}: set img_suffix to the part that '
        "all names end in (img_suffix='.jpg'), and seg_map_suffix to the one of the labels, which are searched under "
        'the same names.'
    )


def missing_labels_message(pairs: Sequence[Pair], total: int, root: str) -> str:
    """Say which labels are missing, and what lies in their place.

    Args:
        pairs (Sequence[Pair]): Those whose label does not exist.
        total (int): Number of pairs of the data set.
        root (str): Folder of the data set, for the command.
    """
    label = pairs[0].label
    message = f"{len(pairs)} of {total} images have no label: '{label}' does not exist"
    if label.endswith(TRAIN_IDS_SUFFIX) and osp.isfile(label.removesuffix(TRAIN_IDS_SUFFIX) + LABEL_IDS_SUFFIX):
        return f"{message}. There are *{LABEL_IDS_SUFFIX}: 'python tools/prepare_cityscapes.py {root}' makes it of them"
    folder = osp.dirname(label)
    if not osp.isdir(folder):
        return f"{message}, nor does its folder '{folder}'"
    near = sorted(_near(label, osp.basename(pairs[0].image)))
    hint = f"; there is '{near[0]}': seg_map_suffix of the data set says how the labels end" if near else ''
    return f'{message}{hint or "; " + list_folder(folder)}'


def _near(label: str, image_name: str) -> Iterator[str]:
    """Files in a label's folder that begin as the label or the image does."""
    stems = {osp.splitext(name)[0] for name in (osp.basename(label), image_name)}
    stem = min(stems, key=len)
    with os.scandir(osp.dirname(label)) as entries:
        yield from (entry.path for entry in entries if entry.name.startswith(stem) and entry.name != image_name)


# -- headers


def header_fault(pair: Pair, oriented: bool) -> Fault | None:
    """What the headers of an image and its label tell: missing, unreadable, of different sizes.

    Args:
        pair (Pair): The two.
        oriented (bool): Whether the image's EXIF orientation is applied when it is loaded.
    """
    sizes = []
    for what, path in (('image', pair.image), ('label', pair.label)):
        if path is None:
            return None
        try:
            sizes.append(header_size(path, oriented and what == 'image'))
        except FileNotFoundError:
            return Fault(f'{what} missing', f"the {what} '{path}' does not exist")
        except UnidentifiedImageError:
            size = osp.getsize(path)
            found = 'the file is empty (0 bytes)' if not size else f'its {size:,} bytes are no image that Pillow knows'
            if what == 'image' and size:  # OpenCV may know more formats: loading will tell
                return None
            return Fault(f'{what} unreadable', f"cannot use the {what} '{path}': {found}")
        except DECODE_ERRORS as error:
            return Fault(f'{what} unreadable', f"cannot use the {what} '{path}': {error}")
    return size_fault(pair, *sizes)


def header_size(path: str, oriented: bool) -> tuple[int, int]:
    """(height, width) by a file's header; with the EXIF orientation of a JPEG if asked for."""
    with Image.open(path) as image:
        turned = oriented and image.format in _WITH_EXIF and image.getexif().get(0x0112) in _TURNED
        return image.size if turned else image.size[::-1]


def size_fault(pair: Pair, image: tuple[int, int], label: tuple[int, int]) -> Fault | None:
    """The fault of a pair whose sizes, (height, width), are not the same."""
    if tuple(image) == tuple(label):
        return None
    (height, width), (label_height, label_width) = image, label
    if (height, width) == (label_width, label_height):
        how = (
            ', turned by 90 degrees. If the image has an EXIF orientation that the label was made without, '
            "color_type='color_ignore_orientation' of the loader leaves it out; else turn the label"
        )
    elif abs(width * label_height - height * label_width) <= max(width, height):
        factor = label_width / width
        how = f', scaled by {factor:.3g}. Resize it with nearest neighbours, or take the image that it was made on'
    else:
        how = ', cut or of another image'
    return Fault(
        'label of another size than the image',
        f"the label '{pair.label}' is {label_width}x{label_height} (width x height), its image '{pair.image}' "
        f'{width}x{height}{how}',
    )
