"""Makes docs/images/ihc_overlay.png, the picture of the README, from the results of scripts/demo.

The slide is scikit-image's `data.immunohistochemistry` (Center for Microscopy and Molecular Imaging; no known copyright
restrictions): on the left as it is, on the right with what the embedded model found.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "demo-output"
PICTURE = REPOSITORY / "docs" / "images" / "ihc_overlay.png"
HEIGHT, GAP = 288, 8
LARGEST_KB = 600


def main() -> None:
    slide = Image.open(RESULTS / "images" / "ihc_slide.png").convert("RGB")
    overlay = Image.open(RESULTS / "ihc_slide_overlay.png").convert("RGB")
    part = (0, slide.height - HEIGHT, slide.width, slide.height)
    both = Image.new("RGB", (2 * slide.width + GAP, HEIGHT), "white")
    both.paste(slide.crop(part), (0, 0))
    both.paste(overlay.crop(part), (slide.width + GAP, 0))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    both.save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size / 1e3
    print(f"{PICTURE}: {size:.0f} kB")
    if size > LARGEST_KB:
        raise SystemExit(f"The picture is larger than {LARGEST_KB} kB; show less of it")


if __name__ == "__main__":
    main()
