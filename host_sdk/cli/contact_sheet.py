"""A contact sheet: every image with what was said of it."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_CELL, _LABEL, _GAP = 56, 15, 4
_COLUMNS = 25
_HEAD = 22
_PAPER, _INK, _GOOD, _BAD = (250, 250, 247), (40, 40, 40), (30, 110, 60), (200, 30, 40)


def draw_contact_sheet(path: Path, entries: list[tuple[bytes, str, str]]) -> None:
    """Draw images with what was said of them below; those that are wrong are framed in red: said / is.

    Args:
        path: PNG file to write.
        entries: Encoded image, true label and predicted label of each.
    """
    rows = -(-len(entries) // _COLUMNS)
    width, height = _CELL + _GAP, _CELL + _LABEL + _GAP
    sheet = Image.new("RGB", (_COLUMNS * width + _GAP, _HEAD + rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    right = sum(truth == predicted for _, truth, predicted in entries)
    legend = f"{right} of {len(entries)} right. Below each image what the appliance said; in red: said / is."
    draw.text((_GAP, _GAP), legend, _INK, ImageFont.load_default(13))
    for index, (encoded, truth, predicted) in enumerate(entries):
        left = _GAP + index % _COLUMNS * width
        top = _HEAD + _GAP + index // _COLUMNS * height
        with Image.open(io.BytesIO(encoded)) as image:
            sheet.paste(image.convert("RGB").resize((_CELL, _CELL)), (left, top))
        good = truth == predicted
        caption = predicted if good else f"{predicted or '?'}/{truth}"
        draw.text((left, top + _CELL + 1), caption, _GOOD if good else _BAD, font)
        if not good:
            draw.rectangle((left - 2, top - 2, left + _CELL + 1, top + _CELL + _LABEL + 1), outline=_BAD, width=2)
    sheet.quantize(128).save(path, optimize=True)
