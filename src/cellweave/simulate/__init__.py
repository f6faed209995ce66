"""Synthetic microscopes with exact truth: shapes, optics, noise, time and depth.

``next(stream("bacteria", seed=1)).labels`` is the truth of the first picture of `RECIPES` ``["bacteria"]``.
"""

from cellweave.simulate.geometry import Geometry
from cellweave.simulate.recipes import RECIPES, Recipe, picture, scene, stream
from cellweave.simulate.scene import Cells, Picture, Scene

__all__ = ["RECIPES", "Cells", "Geometry", "Picture", "Recipe", "Scene", "picture", "scene", "stream"]
