"""What the files of a folder are by their names: images, labels, or pictures that cellweave and Cellpose made."""

from __future__ import annotations

from pathlib import Path

from cellweave.io import npy, ome_zarr, raster, tiff

IMAGE_SUFFIXES = (*tiff.SUFFIXES, *ome_zarr.SUFFIXES, *npy.SUFFIXES, *raster.SUFFIXES)
"""Suffixes of images. Of two files with one name, the suffix that comes first here is taken."""
LOSSY_SUFFIXES = (".jpg", ".jpeg")
"""Of images that cannot be labels."""
LABEL_ENDINGS = ("_masks", "_mask", "_labels", "_label", "_cp_masks", "_seg")
"""What a label file's name adds to that of its image, in the order of precedence; `_seg` for .npy only."""
BY_PRODUCTS = (
    *("_overlay", "_diagnostics", "_counted", "_density"),
    *("_flows", "_outlines", "_cp_output", "_cp_outlines"),
)
"""Endings of pictures that cellweave and Cellpose write beside images; they are neither images nor labels."""


def stem_of(path: Path) -> str:
    """Name without suffix, of x.ome.tif and x.ome.zarr too."""
    stem = path.name[: -len(path.suffix)] if path.suffix else path.name
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def label_ending(path: Path) -> str:
    """What marks a file as labels, as it is written in the name; empty for images."""
    stem = stem_of(path)
    for ending in sorted(LABEL_ENDINGS, key=len, reverse=True):
        if stem.lower().endswith(ending) and (ending != "_seg" or path.suffix.lower() == ".npy"):
            return stem[-len(ending) :]
    return ""


def label_precedence(path: Path) -> tuple[int, int, str]:
    """By this order the first of several label files of one image is taken."""
    ending = label_ending(path).lower()
    rank = LABEL_ENDINGS.index(ending) if ending else -1
    return rank, IMAGE_SUFFIXES.index(path.suffix.lower()), path.name


def pictures(folder: Path) -> list[Path]:
    """Images and labels in a folder, in the order of their names; without hidden files and by-products."""
    return [
        p
        for p in sorted(folder.iterdir())
        if p.suffix.lower() in IMAGE_SUFFIXES
        and not p.name.startswith(".")
        and not stem_of(p).lower().endswith(BY_PRODUCTS)
    ]


def images_in(folder: Path) -> list[Path]:
    """`pictures` without labels."""
    return [path for path in pictures(folder) if not label_ending(path)]
