"""Labels as a training needs them: every object in one piece, none too small, ids in order."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cellweave.core.errors import InputError
from cellweave.core.labels import Labels, as_labels


@dataclass(frozen=True)
class CleaningReport:
    """What `clean_labels` found and changed. ``str(report)`` is one line for people.

    Parameters
    ----------
    objects
        Objects before.
    split, pieces
        Objects that were not in one piece, and the number of their pieces.
    removed
        Objects and pieces with fewer than `min_size` pixels.
    kept
        Objects after.
    min_size
        As given to `clean_labels`.
    """

    objects: int
    split: int
    pieces: int
    removed: int
    kept: int
    min_size: int

    @property
    def changed(self) -> bool:
        """Whether an object was split or removed; new ids alone are no change."""
        return self.split > 0 or self.removed > 0

    def as_dict(self) -> dict[str, int]:
        """The fields, for a JSON file."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.changed:
            return f"{_count(self.objects, 'object')}, nothing to clean"
        done = []
        if self.split:
            done.append(f"{self.split} not in one piece became {self.pieces}")
        if self.removed:
            done.append(f"{self.removed} under {self.min_size} px removed")
        return f"{_count(self.objects, 'object')}: {', '.join(done)}; {self.kept} left"


def clean_labels(labels: Labels, *, min_size: int = 5) -> tuple[Labels, CleaningReport]:
    """Split objects that are not 4-connected, remove those under `min_size` pixels, and number the rest from 1.

    New ids follow the old ones; the pieces of one object follow each other, in the order in which a scan by rows meets
    them. Labels without a fault come back as they are (Hu et al. 2022, *Cell Segmenter*, Sec. 2.1).

    Parameters
    ----------
    labels
        (Y, X) integers, 0 = background; ids need not be sequential.
    min_size
        Fewest pixels of an object that stays, counted after the split; 0 and 1 keep all.

    Returns
    -------
    (Y, X) int32 with ids 1..n, and the `CleaningReport`.

    Raises
    ------
    InputError
        When `labels` is no label image or `min_size` is negative.
    """
    if min_size < 0:
        raise InputError(f"min_size is {min_size}; it must be 0 (keep all) or a number of pixels")
    labels = np.ascontiguousarray(as_labels(labels))
    if labels.size == 0:
        return labels, CleaningReport(0, 0, 0, 0, 0, min_size)
    import cc3d  # here, because training from prepared samples runs where only NumPy and PyTorch are

    parts, n = cc3d.connected_components(labels, connectivity=4, return_N=True)
    old_ids = np.zeros(n + 1, np.int32)
    old_ids[parts.ravel()] = labels.ravel()
    sizes = np.bincount(parts.ravel(), minlength=n + 1)
    _, pieces = np.unique(old_ids[1:], return_counts=True)

    kept = 1 + np.flatnonzero(sizes[1:] >= min_size)
    kept = kept[np.argsort(old_ids[kept], kind="stable")]
    new_ids = np.zeros(n + 1, np.int32)
    new_ids[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    several = pieces[pieces > 1]
    report = CleaningReport(len(pieces), len(several), int(several.sum()), n - len(kept), len(kept), min_size)
    return new_ids[parts], report


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
