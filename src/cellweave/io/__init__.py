"""Reading images and labels, writing results: one module a file family."""

from cellweave.io.labels import read_label_film, read_labels, write_label_film, write_labels
from cellweave.io.overlay import render_overlay, write_overlay
from cellweave.io.point_overlay import render_points, write_points_overlay
from cellweave.io.points import read_annotations, read_points, write_points
from cellweave.io.reading import describe, read_image
from cellweave.io.seg_npy import read_seg_npy
from cellweave.io.table import read_table, write_table

__all__ = [
    "describe",
    "read_annotations",
    "read_image",
    "read_label_film",
    "read_labels",
    "read_points",
    "read_seg_npy",
    "read_table",
    "render_overlay",
    "render_points",
    "write_label_film",
    "write_labels",
    "write_overlay",
    "write_points",
    "write_points_overlay",
    "write_table",
]
