"""From the file's pixels to what a net expects: channels, intensities, size. Arrays in, arrays out."""

from cellweave.prep.channels import Channels
from cellweave.prep.normalise import Normalisation
from cellweave.prep.rescale import Resampling

__all__ = ["Channels", "Normalisation", "Resampling"]
