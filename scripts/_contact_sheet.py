"""Makes docs/images/simulated.jpg, the contact sheet of docs/simulate.md: a row of pictures for each recipe.

The right half shows the exact outlines too. Channels are shown as green, blue and red, in their order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from cellweave.simulate import RECIPES, Picture, picture

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "simulated.jpg"
SEED, COLUMNS, SIDE, SHOWN, TITLE = 5, 6, 224, 150, 14
OUTLINE = (255, 230, 0)


def main() -> None:
    sheet = Image.new("RGB", (COLUMNS * SHOWN, len(RECIPES) * (SHOWN + TITLE)), "white")
    for row, name in enumerate(RECIPES):
        top = row * (SHOWN + TITLE)
        ImageDraw.Draw(sheet).text((2, top + 1), f"{name}: {RECIPES[name].summary}", fill="black")
        for column in range(COLUMNS):
            drawn = picture(name, column, seed=SEED, size=(SIDE, SIDE), diameter=(24.0, 40.0)[column % 2])
            shown = visible(drawn)
            if column >= COLUMNS // 2:
                shown[find_boundaries(drawn.labels, mode="inner")] = OUTLINE
            sheet.paste(Image.fromarray(shown).resize((SHOWN, SHOWN)), (column * SHOWN, top + TITLE))
    sheet.save(PICTURE, quality=80)
    print(f"Wrote {PICTURE}: {PICTURE.stat().st_size / 1e3:.0f} kB")


def visible(drawn: Picture) -> NDArray[np.uint8]:
    """The picture as red, green and blue (Y, X, 3)."""
    if drawn.color:
        return np.ascontiguousarray(np.moveaxis(drawn.pixels, 0, -1)).astype(np.uint8)
    low, high = np.percentile(drawn.pixels, [1, 99.5], axis=(1, 2), keepdims=True)
    light = (255 * np.clip((drawn.pixels - low) / np.maximum(high - low, 1), 0, 1)).astype(np.uint8)
    if len(light) == 1:
        return np.repeat(light[0][..., None], 3, axis=2)
    out = np.zeros((*light.shape[1:], 3), np.uint8)
    for channel, colour in zip(light, (1, 2, 0), strict=False):
        out[..., colour] = channel
    return out


if __name__ == "__main__":
    main()
