"""Makes docs/images/slide_overlay.png, the picture of the README, from the results of scripts/demo.

The slide is scikit-image's `data.immunohistochemistry` (Center for Microscopy and Molecular Imaging; no known copyright
restrictions): on the left as it is, on the right with what the embedded model found in its blue stain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image as Picture

from cellweave import Image
from cellweave.io import read_labels, render_overlay

REPOSITORY = Path(__file__).resolve().parents[1]
LABELS = REPOSITORY / "demo-output" / "slide_blue_stain_labels.tif"
PICTURE = REPOSITORY / "docs" / "images" / "slide_overlay.png"
PART = np.s_[200:488, 100:512]
ZOOM, GAP = 1.5, 8
LARGEST_KB = 900


def main() -> None:
    slide = np.ascontiguousarray(skimage.data.immunohistochemistry()[PART])
    labels = np.ascontiguousarray(read_labels(LABELS)[PART])
    height, width = (round(n * ZOOM) for n in labels.shape)
    large = np.asarray(Picture.fromarray(slide).resize((width, height), Picture.Resampling.BICUBIC))
    ids = np.asarray(Picture.fromarray(labels).resize((width, height), Picture.Resampling.NEAREST))
    both = np.full((height, 2 * width + GAP, 3), 255, np.uint8)
    both[:, :width] = large
    both[:, width + GAP :] = render_overlay(Image.from_array(large), ids)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(both).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size / 1e3
    print(f"{PICTURE}: {size:.0f} kB")
    if size > LARGEST_KB:
        raise SystemExit(f"The picture is larger than {LARGEST_KB} kB; show less of it")


if __name__ == "__main__":
    main()
