"""Networks: one file each, no targets, no losses, no files. All return a `NetOutput`."""

from cellweave.nets.cellpose_unet import CellposeUNet
from cellweave.nets.fast_unet import FastUNet
from cellweave.nets.output import NetOutput

__all__ = ["NETS", "CellposeUNet", "FastUNet", "NetOutput"]

NETS: dict[str, type[CellposeUNet] | type[FastUNet]] = {"CellposeUNet": CellposeUNet, "FastUNet": FastUNet}
"""By the name that a saved model gives."""
