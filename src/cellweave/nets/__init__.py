"""Networks: one file each, no targets, no losses, no files. All return a `NetOutput`."""

from cellweave.core.output import NetOutput
from cellweave.nets.anchor_unet import AnchorUNet
from cellweave.nets.cellpose_unet import CellposeUNet
from cellweave.nets.fast_unet import FastUNet
from cellweave.nets.nested_unet import NestedUNet

__all__ = ["NETS", "AnchorUNet", "CellposeUNet", "FastUNet", "NestedUNet", "NetOutput"]

NETS: dict[str, type[AnchorUNet] | type[CellposeUNet] | type[FastUNet] | type[NestedUNet]] = {
    "AnchorUNet": AnchorUNet,
    "CellposeUNet": CellposeUNet,
    "FastUNet": FastUNet,
    "NestedUNet": NestedUNet,
}
"""By the name that a saved model gives."""
