"""From an image and a model to maps and labels, in memory that does not grow with the number of tiles."""

from cellweave.predict.branches import Branch
from cellweave.predict.counters import Count, Counter, load_counter
from cellweave.predict.counting import MapCount, count
from cellweave.predict.diagnostics import diagnostics_picture
from cellweave.predict.frames import Frames, segment_frames
from cellweave.predict.fused import Fused, Pick, segment_set
from cellweave.predict.maps import estimate_diameter, predict_maps
from cellweave.predict.segmentation import Segmentation, parse_diameter, segment

__all__ = [
    "Branch",
    "Count",
    "Counter",
    "Frames",
    "Fused",
    "MapCount",
    "Pick",
    "Segmentation",
    "count",
    "diagnostics_picture",
    "estimate_diameter",
    "load_counter",
    "parse_diameter",
    "predict_maps",
    "segment",
    "segment_frames",
    "segment_set",
]
