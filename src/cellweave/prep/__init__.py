"""From the file's pixels to what a net expects: channels, intensities, size. Arrays in, arrays out."""

from cellweave.prep.channels import Channels, empty_channels
from cellweave.prep.cidre import cidre
from cellweave.prep.clahe import clahe, equalised
from cellweave.prep.flatfield import FlatField, corrected, estimate_field, reference_field
from cellweave.prep.normalise import Normalisation
from cellweave.prep.preparation import Preparation
from cellweave.prep.rescale import Resampling
from cellweave.prep.scaling import Scaling, measure_scaling

__all__ = [
    "Channels",
    "FlatField",
    "Normalisation",
    "Preparation",
    "Resampling",
    "Scaling",
    "cidre",
    "clahe",
    "corrected",
    "empty_channels",
    "equalised",
    "estimate_field",
    "measure_scaling",
    "reference_field",
]
