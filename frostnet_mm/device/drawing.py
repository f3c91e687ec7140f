"""Predictions drawn on their images: outlines and label maps, and names on a ground of the class's colour."""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from .image_files import optional
from .results import ClassScores, Detections, LabelMap

Colour = tuple[int, int, int]  # BGR
Place = tuple[int, int, int, int]  # x1, y1, x2, y2 of a label, in pixels
_LEAST_NAMED = 0.005  # of the pixels, for a class's name to be written on a label map
_SMALLEST = 7  # pixels of height, below which text cannot be read


def draw(
    image: np.ndarray,
    result: Detections | LabelMap | ClassScores,
    num_classes: int,
    palette: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """Draw a prediction on a copy of its image.

    Names stand within the picture, on a ground of the class's colour, beside each other as far as there is room; in a
    picture too small for readable text there are none. Letters that the font lacks lose their accents, and names of
    others become 'class N'.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3).
        result (Detections | LabelMap | ClassScores): What was found in it.
        num_classes (int): How many classes there are.
        palette (Sequence[Sequence[int]]): RGB of the classes; where it ends, PASCAL VOC's colours go on. Default: ().

    Returns:
        np.ndarray: uint8 BGR of shape (H, W, 3).
    """
    colours = [_colour(label, palette) for label in range(num_classes)]
    canvas = _Canvas(image)
    if isinstance(result, LabelMap):
        painted = np.asarray(colours, np.uint16)[result.labels]
        canvas.image = ((canvas.image.astype(np.uint16) + painted) // 2).astype(np.uint8)
        _name_regions(canvas, result, colours)
    elif isinstance(result, ClassScores):
        label = int(result.best[0])
        name = f'{_printable(result.classes, label)} {result.scores[label]:.2f}'
        canvas.label(name, colours[label], lambda w, h: [(0, 0)])
        canvas.paint_labels()
    else:
        _draw_boxes(canvas, result, colours)
    return canvas.image


def tint(
    image: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    palette: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """Tint the objects of instance segmentation with the colours of their classes.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3).
        masks (np.ndarray): bool of shape (K, H, W).
        labels (np.ndarray): int64 of shape (K,).
        num_classes (int): How many classes there are.
        palette (Sequence[Sequence[int]]): As for :func:`draw`. Default: ().

    Returns:
        np.ndarray: A copy of the image.
    """
    colours = np.array([_colour(label, palette) for label in range(num_classes)], np.uint16)
    image = np.array(image)
    for mask, label in zip(masks[::-1], labels[::-1].tolist(), strict=True):  # the best on top
        image[mask] = (image[mask] + colours[label]) // 2
    return image


def _colour(label: int, palette: Sequence[Sequence[int]]) -> Colour:
    """BGR of a class: of the palette (RGB), else as PASCAL VOC numbers its colours."""
    if label < len(palette):
        return tuple(int(value) for value in palette[label][::-1])
    return tuple(sum(((label + 1) >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3)) for c in (2, 1, 0))


def _draw_boxes(canvas: '_Canvas', result: Detections, colours: list[Colour]) -> None:
    height, width = canvas.image.shape[:2]
    high = np.array([width - 1, height - 1] * 2)
    corners = np.rint(np.nan_to_num(result.boxes)).clip(0, high).astype(int).reshape(-1, 4).tolist()
    rows = list(zip(corners, result.labels.tolist(), result.scores.tolist(), strict=True))
    for corner, label, _ in rows[::-1]:  # the best on top
        canvas.box(corner, colours[label])
    for (x1, y1, x2, y2), label, score in rows:  # the best have the choice of places
        name = f'{_printable(result.classes, label)} {score:.2f}'

        def places(w: int, h: int, x1=x1, y1=y1, x2=x2, y2=y2) -> list[tuple[int, int]]:
            beside = [(x2, y1 + h * k) for k in range(4)] + [(x1 - w, y1 + h * k) for k in range(4)]
            below = [(x1, y2 + h * k) for k in range(4)]
            return [(x1, y1 - h), (x1, y1), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2 - h), *beside, *below]

        canvas.label(name, colours[label], places)
    canvas.paint_labels()


def _name_regions(canvas: '_Canvas', result: LabelMap, colours: list[Colour]) -> None:
    """The name of each class of some size, on the pixel of it that is nearest to the middle of all of its pixels."""
    labels, counts = np.unique(result.labels, return_counts=True)
    for count, label in sorted(zip(counts.tolist(), labels.tolist(), strict=True), reverse=True):
        if not result.classes or count < _LEAST_NAMED * result.labels.size:
            continue
        rows, columns = np.nonzero(result.labels == label)
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        x, y = int(columns[nearest]), int(rows[nearest])
        name = _printable(result.classes, label)
        canvas.label(
            name, colours[label], lambda w, h, x=x, y=y: [(x - w // 2, y + h * k - h // 2) for k in (0, 1, -1)]
        )
    canvas.paint_labels()


def _printable(classes: Sequence[str], label: int) -> str:
    """The name of a class in the letters of OpenCV's font, which are those of ASCII."""
    name = str(classes[label]) if label < len(classes) else ''
    plain = ''.join(letter for letter in unicodedata.normalize('NFKD', name) if not unicodedata.combining(letter))
    readable = plain.isascii() and plain.isprintable() and plain.strip()
    return plain if readable else f'class {label}'


class _Canvas:
    """An image that is drawn on, with OpenCV or else Pillow.

    Args:
        image (np.ndarray): uint8 BGR of shape (H, W, 3); a copy is drawn on.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = np.array(image)
        self.line = max(1, round(max(image.shape) / 500))
        self.labels: list[tuple[Place, np.ndarray, Colour]] = []

    def box(self, corners: Sequence[int], colour: Colour) -> None:
        """An outline, with a thin contrasting one inside of it, to be seen on any ground."""
        self._outline(corners, self.line, colour)
        x1, y1, x2, y2 = corners
        inner = (x1 + self.line, y1 + self.line, x2 - self.line, y2 - self.line)
        if min(inner[2] - inner[0], inner[3] - inner[1]) > 8:
            self._outline(inner, 1, _contrast(colour))

    def _outline(self, corners: Sequence[int], thickness: int, colour: Colour) -> None:
        x1, y1, x2, y2 = corners
        for k in range(thickness):
            a, b, c, d = x1 + k, y1 + k, max(x1 + k, x2 - k), max(y1 + k, y2 - k)
            self.image[[b, min(d, len(self.image) - 1)], a : c + 1] = colour
            self.image[b : d + 1, [a, min(c, self.image.shape[1] - 1)]] = colour

    def label(self, text: str, colour: Colour, places: Callable[[int, int], list[tuple[int, int]]]) -> None:
        """Find a place for text on a ground; :meth:`paint_labels` paints it.

        Args:
            text (str): In ASCII.
            colour (Colour): Of the ground.
            places (Callable): Gives for the label's width and height the left top corners that would do, best first.
        """
        ink = _fitting(text, self.image.shape[:2])
        if ink is None:
            return
        height, width = ink.shape
        room_y, room_x = self.image.shape[0] - height, self.image.shape[1] - width
        inside = [(min(max(x, 0), room_x), min(max(y, 0), room_y)) for x, y in places(width, height)]
        x, y = next((place for place in inside if self._is_free(*place, width, height)), inside[0])
        self.labels.append(((x, y, x + width, y + height), ink, colour))

    def _is_free(self, x: int, y: int, width: int, height: int) -> bool:
        return all(x + width <= a or c <= x or y + height <= b or d <= y for (a, b, c, d), _, _ in self.labels)

    def paint_labels(self) -> None:
        """Paint the labels, the first on top."""
        for (x1, y1, x2, y2), ink, ground in self.labels[::-1]:
            share = ink[..., None]
            mixed = share * np.array(_contrast(ground), np.float32) + (1 - share) * np.array(ground, np.float32)
            self.image[y1:y2, x1:x2] = np.rint(mixed).astype(np.uint8)


def _contrast(colour: Colour) -> Colour:
    """Black on light colours, white on dark ones (ITU-R BT.601)."""
    return (0, 0, 0) if np.dot(colour, (0.114, 0.587, 0.299)) > 140 else (255, 255, 255)


def _fitting(text: str, size: tuple[int, int]) -> np.ndarray | None:
    """Text as large as is fit for a picture: how much of each pixel is ink; None where it would be unreadable."""
    wanted = min(max(12, round(max(size) / 45)), 48)
    ink = _rendered(text, wanted)
    if ink.shape[1] > size[1] or ink.shape[0] > size[0]:
        smaller = int(wanted * min(size[1] / ink.shape[1], size[0] / ink.shape[0]))
        if smaller < _SMALLEST:
            return None
        ink = _rendered(text, smaller)
    return ink if ink.shape[0] <= size[0] and ink.shape[1] <= size[1] else None


def _rendered(text: str, height: int) -> np.ndarray:
    """Text with a margin: float32 of shape (about ``height``, W), 1 where there is ink."""
    cv2, margin = optional('cv2'), max(1, height // 6)
    if cv2 is not None:
        font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, height / 34, max(1, round(height / 16))
        (width, above), below = cv2.getTextSize(text, font, scale, thickness)
        ink = np.zeros((above + below + 2 * margin, width + 2 * margin), np.uint8)
        cv2.putText(ink, text, (margin, margin + above), font, scale, 255, thickness, cv2.LINE_AA)
        return ink.astype(np.float32) / 255
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.load_default(size=max(6, round(height * 0.9)))
    except (TypeError, ImportError, OSError):  # before Pillow 10.1, or without FreeType: one small size
        font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new('L', (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin))
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, fill=255, font=font)
    return np.asarray(picture, np.float32) / 255
