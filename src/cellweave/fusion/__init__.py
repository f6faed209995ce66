"""One segmentation of several: of the maps of several models, or of the label images of several raters."""

from cellweave.fusion.flow_fusion import flow_fusion
from cellweave.fusion.fuse_instances import METHODS, fuse_instances
from cellweave.fusion.majority_voting import majority_voting
from cellweave.fusion.match_ids import match_ids
from cellweave.fusion.multi_label_staple import MultiLabelStaple, multi_label_staple
from cellweave.fusion.pixel_voting import pixel_voting
from cellweave.fusion.simple import Simple, simple
from cellweave.fusion.staple import Staple, staple

__all__ = [
    "METHODS",
    "MultiLabelStaple",
    "Simple",
    "Staple",
    "flow_fusion",
    "fuse_instances",
    "majority_voting",
    "match_ids",
    "multi_label_staple",
    "pixel_voting",
    "simple",
    "staple",
]
