"""Sample images for scripts/demo: a real slide that scikit-image ships, and three that are drawn here.

The slide has two stains, blue for nuclei and brown for a protein. The embedded model was trained on few stained slides
and on none with brown, so it is given the blue stain alone, separated from the brown by its colour.

The drawn ones follow a fluorescence microscope: objects with texture, an uneven background, the blur of the lens (a
Gaussian), photons (Poisson noise) and the camera (Gaussian noise, offset, 16 bits).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage.data
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.color import rgb2hed

PIXEL_UM = 0.5


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    print("Taking a stained slide from scikit-image, and drawing three fluorescence images")
    save(folder / "slide_blue_stain.ome.tif", blue_stain(skimage.data.immunohistochemistry())[np.newaxis], ["nuclei"])
    save(folder / "nuclei.ome.tif", nuclei(seed=1)[np.newaxis], ["DAPI"], PIXEL_UM)
    save(folder / "nuclei_dense.ome.tif", nuclei(seed=3, n=600, radius=8)[np.newaxis], ["DAPI"], PIXEL_UM)
    save(folder / "cells_2_channels.ome.tif", cells(seed=2), ["actin", "DAPI"], PIXEL_UM)


def blue_stain(slide: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(Y, X): how much of the blue dye (hematoxylin) each pixel of a (Y, X, 3) slide holds, over the largest amount."""
    amount = gaussian_filter(rgb2hed(slide)[..., 0].clip(0), 1)  # colour is stored coarsely in JPEG
    return np.asarray(65535 * amount / amount.max(), np.uint16)


def nuclei(seed: int, side: int = 512, n: int = 90, radius: float = 12) -> NDArray[np.uint16]:
    """(Y, X): nuclei of one stain, single and touching, some out of focus."""
    rng = np.random.default_rng(seed)
    speckle = 1 + 0.3 * texture(rng, side, radius / 5)
    sharp, blurred = np.zeros((2, side, side))
    for y, x in scattered(rng, side, n, 1.6 * radius):
        where, inside = nucleus(rng, side, y, x, radius)
        light = blurred if rng.random() < 0.1 else sharp
        light[where] = np.maximum(light[where], inside * speckle[where] * rng.uniform(0.35, 1))
    light = gaussian_filter(sharp, radius / 10) + gaussian_filter(blurred, radius / 3)
    return camera(rng, light, haze=gaussian_filter(light, 40))


def cells(seed: int, side: int = 512, n: int = 40) -> NDArray[np.uint16]:
    """(2, Y, X): cells in groups, the first channel their bodies, the second their nuclei."""
    rng = np.random.default_rng(seed)
    places = scattered(rng, side, n, 52)
    rows, columns = np.mgrid[:side, :side]
    bend = 6 * np.stack([texture(rng, side, 14), texture(rng, side, 14)])
    distance = np.stack([np.hypot(rows + bend[0] - y, columns + bend[1] - x) for y, x in places])
    owner = np.where(distance.min(axis=0) < 30, distance.argmin(axis=0), -1)
    grain = texture(rng, side, 2)
    bodies, nuclei = np.zeros((2, side, side))
    for k, (y, x) in enumerate(places):
        depth = distance_transform_edt(np.pad(owner == k, 1))[1:-1, 1:-1]
        bodies += np.clip((depth - 1) / 12, 0, 1) ** 0.6 * (1 + 0.12 * grain) * rng.uniform(0.5, 1)
        where, inside = nucleus(rng, side, y, x, 10)
        inside *= depth[where] > 2
        bodies[where] *= 1 - 0.25 * inside
        nuclei[where] = np.maximum(nuclei[where], inside * (1 + 0.3 * grain[where]) * rng.uniform(0.5, 1))
    both = (gaussian_filter(light, 1.3) for light in (bodies, nuclei))
    return np.stack([camera(rng, light, haze=gaussian_filter(light, 30)) for light in both])


def scattered(rng: np.random.Generator, side: int, n: int, apart: float) -> list[tuple[float, float]]:
    """Up to `n` random places that keep a distance."""
    places = np.empty((0, 2))
    for place in rng.uniform(6, side - 6, (50 * n, 2)):
        if len(places) < n and (np.hypot(*(places - place).T) > apart).all():
            places = np.vstack([places, place])
    return [(float(y), float(x)) for y, x in places]


def nucleus(
    rng: np.random.Generator, side: int, y: float, x: float, radius: float
) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """A window of the image, and 1 in it where a random ellipse around (y, x) is."""
    reach = int(1.4 * radius) + 1
    where = (slice(max(0, int(y) - reach), int(y) + reach), slice(max(0, int(x) - reach), int(x) + reach))
    rows, columns = (np.arange(side)[s] for s in where)
    a, b, angle = radius * rng.uniform(0.75, 1), radius * rng.uniform(0.85, 1.3), rng.uniform(0, np.pi)
    u = (rows[:, np.newaxis] - y) * np.cos(angle) + (columns - x) * np.sin(angle)
    v = (columns - x) * np.cos(angle) - (rows[:, np.newaxis] - y) * np.sin(angle)
    return where, np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1, np.float64)


def texture(rng: np.random.Generator, side: int, grain: float) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1; `grain` in px."""
    noise = gaussian_filter(rng.standard_normal((side, side)), grain)
    return np.asarray(noise / noise.std())


def camera(rng: np.random.Generator, light: NDArray[np.float64], haze: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Counts of a camera with 400 photons at full light, a gain of 12, an offset of 300."""
    photons = rng.poisson(400 * np.clip(light + 0.25 * haze + 0.03, 0, None))
    counts = 300 + 12 * photons + rng.normal(0, 30, light.shape)
    return np.asarray(np.clip(counts, 0, 65535), np.uint16)


def save(path: Path, channels: NDArray[np.uint16], names: list[str], pixel_um: float | None = None) -> None:
    """(C, Y, X) as OME-TIFF with channel names and pixel size."""
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    if pixel_um:
        metadata |= {"PhysicalSizeX": pixel_um, "PhysicalSizeY": pixel_um}
    tifffile.imwrite(path, channels, ome=True, photometric="minisblack", compression="zlib", metadata=metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
