"""A sheet of pictures with captions, for people to look at."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 12
_CAPTION = 30
_INK, _PAPER = (235, 235, 235), (18, 20, 24)


def as_picture(image: np.ndarray) -> Image.Image:
    """Turns (H, W) or (H, W, 3) in [0, 1] into an RGB picture."""
    levels = np.clip(np.asarray(image, np.float32) * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def overview(panels: list[tuple[str, np.ndarray]], large: tuple[str, np.ndarray], title: str) -> np.ndarray:
    """Lays small panels in a row above one large picture, each under its caption.

    Args:
        panels: caption and image, (H, W) or (H, W, 3) in [0, 1].
        large: likewise; its width is the sheet's.
        title: a line above all.

    Returns:
        uint8 (H, W, 3).
    """
    big = as_picture(large[1])
    width = (big.width - _GAP * (len(panels) - 1)) // len(panels)
    small = []
    for caption, image in panels:
        picture = as_picture(image)
        height = round(picture.height * width / picture.width)
        small.append((caption, picture.resize((width, height), Image.Resampling.LANCZOS)))
    row_height = max(picture.height for _, picture in small)
    sheet_height = 3 * _CAPTION + row_height + big.height + 3 * _GAP
    sheet = Image.new("RGB", (big.width + 2 * _GAP, sheet_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)

    def write(x: int, y: int, text: str) -> None:
        draw.text((x, y + _CAPTION / 2), text, fill=_INK, font=font, anchor="lm")

    write(_GAP, 0, title)
    y = _CAPTION
    for index, (caption, picture) in enumerate(small):
        x = _GAP + index * (width + _GAP)
        write(x, y, caption)
        sheet.paste(picture, (x, y + _CAPTION))
    y += _CAPTION + row_height + _GAP
    write(_GAP, y, large[0])
    sheet.paste(big, (_GAP, y + _CAPTION))
    return np.asarray(sheet)
