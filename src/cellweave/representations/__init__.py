"""Ways to write instances as dense maps: ``encode(labels)``, ``loss(outputs, target)``, ``decode(maps)``."""

from cellweave.representations.base import MapFormat, PointRepresentation, Representation
from cellweave.representations.diffusion_flows import DiffusionFlows
from cellweave.representations.distance_flows import DistanceFlows, distance_flows, smooth_distance
from cellweave.representations.heatmap import Heatmap, known_region
from cellweave.representations.star_convex import StarConvex, border_probability, star_distances
from cellweave.representations.watershed_energy import WatershedEnergy, energy

__all__ = [
    "REPRESENTATIONS",
    "DiffusionFlows",
    "DistanceFlows",
    "Heatmap",
    "MapFormat",
    "PointRepresentation",
    "Representation",
    "StarConvex",
    "WatershedEnergy",
    "border_probability",
    "distance_flows",
    "energy",
    "known_region",
    "smooth_distance",
    "star_distances",
]

REPRESENTATIONS: dict[str, type[MapFormat]] = {
    "DiffusionFlows": DiffusionFlows,
    "DistanceFlows": DistanceFlows,
    "Heatmap": Heatmap,
    "StarConvex": StarConvex,
    "WatershedEnergy": WatershedEnergy,
}
"""By the name that a saved model gives."""
