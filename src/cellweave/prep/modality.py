"""Modality analyser: is an image grayscale, fluorescence, or brightfield? (Cell Segmenter, Sec. 2.3)

The paper asks "colour statistics" and does not say which. These are ours, from what light does: fluorophores send out
light of few colours over a dark background; a stain takes light of some colours away from white, so that what is darker
is more colourful; in a gray image, and in one that was tinted by a lamp or a camera, brightness says nothing of colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellweave.core.image import Image

Modality = Literal["grayscale", "fluorescence", "brightfield"]
MODALITIES: tuple[Modality, ...] = ("grayscale", "fluorescence", "brightfield")

EQUAL = 0.02
"""Difference of channels, of full light, that JPEG makes of equal ones."""
DARK = 1 / 3
"""Fluorescence has a background under this share of full light."""
PURE = 0.6
"""Saturation from which the brightest pixels are no white light that went through a stain."""
ONE_HUE = 0.002
"""Part of the variance off one hue up to which an image on a light background is a gray one with a tint."""
STAINED = 0.35
"""Correlation of darkness and saturation from which there is a stain."""
_GRID, _SIDE = 16, 32


@dataclass(frozen=True)
class ModalityStatistics:
    """What `modality` looks at; the numbers are those of colour photographs, 0 for other images.

    Parameters
    ----------
    channels
        Number of channels.
    photograph
        Whether they are red, green and blue.
    equal
        Whether all channels are equal, as in a gray image that was saved as colours: but for a thousandth of the
        pixels they differ by at most a fiftieth of full light.
    background
        Median brightness (mean of the channels) over full light, the 99.9th percentile of all values.
    purity
        Median saturation, (max - min) / max of a pixel's channels, of the brightest tenth of the pixels.
    hues
        Part of the variance of colours that is off the one hue (line through black) that fits best.
    staining
        Correlation of darkness and saturation over the pixels, -1 to 1; 0 where either is constant.
    """

    channels: int
    photograph: bool
    equal: bool
    background: float = 0.0
    purity: float = 0.0
    hues: float = 0.0
    staining: float = 0.0

    @classmethod
    def of(cls, image: Image) -> ModalityStatistics:
        """Look at up to 16 x 16 squares of 32 x 32 px, evenly spread, whatever the size of the image.

        Raises
        ------
        InputError
            When the image has several time points or depths; choose one with `Image.plane`.
        """
        image = image.plane()
        n = image.n_channels
        photograph = image.color and n == 3
        if n == 1:
            return cls(1, photograph=False, equal=True)
        pixels = _sample(image)
        full = np.percentile(pixels, 99.9)  # float64, in which nothing overflows below
        colours = np.clip(pixels / (full if full > 0 else 1.0), 0.0, 1.0)
        light, most = colours.mean(axis=0), colours.max(axis=0)
        spread = most - colours.min(axis=0)
        equal = bool(np.percentile(spread, 99.9) <= EQUAL)
        if equal or not photograph:
            return cls(n, photograph, equal)
        saturation = spread / np.maximum(most, 1e-6)
        return cls(
            n,
            photograph,
            equal,
            background=float(np.median(light)),
            purity=float(np.median(saturation[light >= np.percentile(light, 90)])),
            hues=_off_one_hue(colours),
            staining=-_correlation(light, saturation),
        )

    @property
    def modality(self) -> Modality:
        """See `modality`."""
        return self._judge()[0]

    @property
    def why(self) -> str:
        """The reason, in words."""
        return self._judge()[1]

    def _judge(self) -> tuple[Modality, str]:
        if self.channels == 1:
            return "grayscale", "it has one channel"
        if self.equal:
            return "grayscale", f"its {self.channels} channels are equal"
        if not self.photograph:
            return "fluorescence", f"it has {self.channels} channels that are no colours of a photograph"
        if self.background < DARK:
            return "fluorescence", f"its background is dark ({self.background:.2f} of full light)"
        if self.purity > PURE:
            return "fluorescence", f"what is bright has pure colours (saturation {self.purity:.2f})"
        if self.hues < ONE_HUE:
            return "grayscale", "it has one faint tint throughout"
        told = f"(correlation of darkness and saturation {self.staining:.2f})"
        if self.staining > STAINED:
            return "brightfield", f"what is darker is more colourful {told}"
        return "grayscale", f"it is tinted, but not stained {told}"


def modality(image: Image) -> Modality:
    """Tell grayscale, fluorescence and brightfield (stained) images apart by their colours.

    ============ ==================================================================================================
    grayscale    one channel, or equal channels, whatever the microscope: phase contrast, DIC, unstained
                 brightfield, and fluorescence of a single dye that was saved in gray (as in the paper, whose
                 analyser sees colours only); colour photographs of a tinted gray picture
    fluorescence colours on a dark background; two or more channels that are no photograph
    brightfield  colours on a light background, the more of them where it is darker: a stain
    ============ ==================================================================================================

    Parameters
    ----------
    image
        (C, Y, X), of any size and type. A grid of at most 512 x 512 px is read. Pixels with NaN do not count.

    Raises
    ------
    InputError
        When the image has several time points or depths; choose one with `Image.plane`.
    """
    return ModalityStatistics.of(image).modality


def _sample(image: Image) -> NDArray[np.float64]:
    """(C, n) values of pixels that are finite in every channel; at least one pixel, zero if there is none."""
    tops, lefts = (
        np.linspace(0, max(0, n - _SIDE), min(_GRID, -(-n // _SIDE)), dtype=int).tolist()
        for n in (image.height, image.width)
    )
    squares = [image.read(slice(y, y + _SIDE), slice(x, x + _SIDE)) for y in tops for x in lefts]
    with np.errstate(over="ignore"):  # what float32 cannot hold does not count
        pixels = np.concatenate([s.reshape(len(s), -1) for s in squares], axis=1).astype(np.float32)
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    return pixels.astype(np.float64) if pixels.size else np.zeros((image.n_channels, 1))


def _off_one_hue(colours: NDArray[np.float64]) -> float:
    """Mean square distance of (3, n) colours to the line through black that fits best, over their variance."""
    moments = np.linalg.eigvalsh(colours @ colours.T / colours.shape[1])
    variance = float(colours.var(axis=1).sum())
    return max(0.0, float(moments[:-1].sum())) / variance if variance > 0 else 0.0


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
