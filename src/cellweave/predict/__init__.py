"""From an image and a model to maps and labels, in memory that does not grow with the number of tiles."""

from cellweave.predict.branches import Branch
from cellweave.predict.counting import Count, count
from cellweave.predict.diagnostics import diagnostics_picture
from cellweave.predict.frames import Frames, segment_frames
from cellweave.predict.fused import Fused, Pick, segment_set
from cellweave.predict.maps import estimate_diameter, predict_maps
from cellweave.predict.segmentation import Segmentation, parse_diameter, segment

__all__ = [
    "Branch",
    "Count",
    "Frames",
    "Fused",
    "Pick",
    "Segmentation",
    "count",
    "diagnostics_picture",
    "estimate_diameter",
    "parse_diameter",
    "predict_maps",
    "segment",
    "segment_frames",
    "segment_set",
]
