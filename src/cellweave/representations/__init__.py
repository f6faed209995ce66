"""Ways to write instances as dense maps: ``encode(labels)``, ``loss(outputs, target)``, ``decode(maps)``."""

from cellweave.representations.base import Representation
from cellweave.representations.diffusion_flows import DiffusionFlows

__all__ = ["REPRESENTATIONS", "DiffusionFlows", "Representation"]

REPRESENTATIONS: dict[str, type[Representation]] = {"DiffusionFlows": DiffusionFlows}
"""By the name that a saved model gives."""
