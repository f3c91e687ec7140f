"""The way from an annotation file to what is trained on or evaluated against; ``prepare_coco`` goes it as well."""

import logging
from collections.abc import Callable, Sequence

from .coco_categories import fit_classes
from .coco_checks import PARTLY_OUTSIDE, Finding, overrunning_boxes, screen_boxes
from .coco_entries import drop_repeated_boxes
from .coco_flags import IGNORED, check_usable, report_ignored
from .coco_frames import Convention, box_convention, fill_sizes, swap_sizes
from .coco_json import load_coco_json, require_sizes
from .coco_lookup import describe_renamed, find_images
from .coco_paths import missing_images_message, sample
from .errors import DatasetError

#: Takes a message, a level of logging, and whether something was changed.
Say = Callable[[str, int, bool], None]
LEFT_OUT = 'annotations of categories that the config leaves out'


def in_words(problems: dict[str, int]) -> str:
    """Counts by cause as text; '' if there are none."""
    return '; '.join(f'{count} {cause}' for cause, count in problems.items())


class CocoReading:
    """An annotation file on its way to a data set; each step changes :attr:`data` and says what it did.

    The steps are in the order in which :class:`frostnet_mm.CheckedCocoDataset` takes them.

    Args:
        path (str): Local json file.
        shown_as (str): Its name in messages.
        evaluated (bool): Whether it is ground truth, whose boxes are not clipped, rather than training data.
        say (Callable): Takes each message, its level of logging, and whether it tells of a change.

    Raises:
        DatasetError: If the file is broken, see :func:`load_coco_json`.
    """

    def __init__(self, path: str, shown_as: str, evaluated: bool, say: Say) -> None:
        self.path = shown_as
        self.evaluated = evaluated
        self._say = say
        #: Number of boxes or images by cause.
        self.problems: dict[str, int] = {}
        #: By image id, boxes as they were stated, of images whose boxes overran the stated size.
        self.stated_boxes: dict = {}
        self.data, changes = load_coco_json(path, shown_as)
        self._tell(changes)
        if evaluated and any(annotation['id'] == 0 for annotation in self.data['annotations']):
            message = (
                f"'{self.path}': an annotation has the id 0, which pycocotools takes for 'no match'. "
                'frostnet_mm.CocoMetric numbers them anew; with any other metric its object counts as missed even when '
                'found. Number the annotations from 1.'
            )
            self._tell([message])
        self.num_boxes = len(self.data['annotations'])

    def _tell(self, messages: Sequence[str], level: int = logging.WARNING, changed: bool = True) -> None:
        for message in messages:
            self._say(message, level, changed)

    def fit(self, classes: Sequence[str]) -> None:
        """Put the categories into the order of a config's classes, see :func:`fit_classes`."""
        count = len(self.data['categories'])
        messages, left_out, dropped = fit_classes(self.data, classes, self.path, self.evaluated)
        self._tell(messages)
        if left_out:
            self.problems[LEFT_OUT] = dropped
            message = (
                f"'{self.path}': the config leaves out {len(left_out)} of {count} "
                f'categories: {sample(left_out, 8)}; {dropped} of {self.num_boxes} annotations are '
                'dropped. To use them, name them in metainfo=dict(classes=(...)).'
            )
            self._tell([message])

    def keep_classes(self, classes: Sequence[str]) -> None:
        """Take categories out that are none of the classes, and their annotations.

        Args:
            classes (Sequence[str]): Class names; the categories fit them, see :meth:`fit`.
        """
        categories = [category for category in self.data['categories'] if category['name'] in set(classes)]
        ids = {category['id'] for category in categories}
        self.data['categories'] = categories
        self.data['annotations'] = [entry for entry in self.data['annotations'] if entry['category_id'] in ids]
        self.num_boxes = len(self.data['annotations'])

    def locate(self, img_dir: str) -> str | None:
        """Find the images, and take out those that are missing.

        Args:
            img_dir (str): Image folder.

        Returns:
            str or None: What is missing, with the likely cause.
        """
        images = self.data['images']
        names = [image['file_name'] for image in images]
        found = find_images(img_dir, names)
        if found.renamed:
            how = describe_renamed((names[position], path) for position, path in found.renamed.items())
            self._tell([f"'{self.path}': {len(found.renamed)} of {len(images)} images are not at their file_name below "
                        f"'{img_dir or '.'}' and were found: {how}."])  # fmt: skip
            for position, path in found.renamed.items():
                images[position]['file_name'] = path
        if not found.missing:
            return None
        self.problems['images missing on disk'] = len(found.missing)
        candidates = [(names[position], paths) for position, paths in found.candidates.items()]
        message = missing_images_message(
            img_dir, [names[position] for position in found.missing], len(images), self.path, candidates
        )
        self.leave_out({images[position]['id'] for position in found.missing})
        return message

    def leave_out(self, image_ids: set) -> None:
        """Take images out, and their annotations.

        Args:
            image_ids (set): Their ids.
        """
        self.data['images'] = [image for image in self.data['images'] if image['id'] not in image_ids]
        self.data['annotations'] = [
            annotation for annotation in self.data['annotations'] if annotation['image_id'] not in image_ids
        ]
        self.num_boxes = len(self.data['annotations'])

    def settle_sizes(self, img_dir: str | None, oriented: bool = True) -> None:
        """Take from the images which sizes the json does not state or exchanges.

        Args:
            img_dir (str, optional): Image folder; None if it cannot be read: then all sizes have to be stated.
            oriented (bool): Whether images are read with EXIF orientation. Default: True.

        Raises:
            DatasetError: If an image has no size, or none that is a positive number.
        """
        if img_dir is not None:
            self._tell(fill_sizes(self.data, img_dir, self.path, oriented))
        require_sizes(self.data, self.path)
        if img_dir is not None and self.convention() is None:
            self._tell(swap_sizes(self.data, img_dir, self.path, oriented))

    def convention(self) -> Convention | None:
        """What the boxes are if they are clearly not [x, y, width, height]."""
        return box_convention(self.data)

    def check_convention(self) -> None:
        """Refuse boxes that are clearly of another convention.

        Raises:
            DatasetError: They are. Says what they are and what shows it.
        """
        convention = self.convention()
        if convention is not None:
            raise DatasetError(
                f"'{self.path}': bbox holds {convention.text} ({convention.evidence}), expected [x, y, width, height], "
                'x and y of the upper left corner. tools/prepare_coco.py --out writes the file with boxes as they '
                'should be.'
            )

    def screen(self, clip: bool | None = None) -> None:
        """Take out boxes that cannot be used or are repeated, and clip those that overrun their image in training.

        Args:
            clip (bool, optional): Whether to clip. Default: in training.
        """
        clip = not self.evaluated if clip is None else clip
        if clip:
            self.stated_boxes = overrunning_boxes(self.data)
        for finding in screen_boxes(self.data, clip=clip):
            self._report_boxes(finding, clip)
        repeated = len(self.data['annotations'])
        self._tell(drop_repeated_boxes(self.data, self.path))
        repeated -= len(self.data['annotations'])
        if repeated:
            self.problems['boxes listed again'] = repeated
        count, message = report_ignored(self.data['annotations'], self.num_boxes)
        if count:
            self.problems[IGNORED] = count
            many = count > 0.5 * self.num_boxes
            self._tell([f"'{self.path}': {message}"], logging.WARNING if many else logging.INFO, changed=False)

    def _report_boxes(self, finding: Finding, clip: bool) -> None:
        self.problems[f'boxes {finding.cause}'] = len(finding.ids)
        done = 'skipped' if finding.skipped else 'clipped' if clip else 'left as they are'
        hint = ''
        if self.evaluated and finding.skipped:
            hint = ' frostnet_mm.CocoMetric skips them as well; for any other metric take them out of the file.'
        elif finding.cause == PARTLY_OUTSIDE and len(finding.ids) > 0.2 * self.num_boxes:
            hint = " So many: is bbox [x, y, width, height], as COCO's is, and not two corners?"
        self._tell([
            f"'{self.path}': {len(finding.ids)} of {self.num_boxes} boxes are {finding.cause}: {done} "
            f'(annotation ids {sample(finding.ids)}).{hint}'
        ])  # fmt: skip

    def check_usable(self, classes: Sequence[str] | None = None) -> None:
        """Check that a box is left, see :func:`check_usable`."""
        found = in_words(self.problems) or 'all are fine'
        check_usable(self.data, self.path, self.num_boxes, found, self.evaluated, classes)
