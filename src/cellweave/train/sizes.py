"""Training the size model, after the net."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellweave.core.device import choose_device
from cellweave.core.labels import median_diameter
from cellweave.core.progress import report
from cellweave.models import Segmenter, SizeModel, fit_size_model
from cellweave.predict.maps import Planes, Runner
from cellweave.prep import Resampling
from cellweave.train.samples import LARGEST_ZOOM, Example

VIEWS = 10
SIDE = 512
OCTAVES = 1.0


def train_size_model(
    segmenter: Segmenter, examples: Sequence[Example], *, seed: int = 0, device: str = "auto"
) -> SizeModel | None:
    """Fit style vectors to diameters on ten random views of each example (challenge paper, Sec. 3.2.2).

    A view is the image resized, turned by quarters, mirrored, and cut to at most 512 x 512 px. Five views vary around
    the image's own resolution and five around the training diameter, by up to one octave: the two occasions on which
    the model is asked (`estimate_diameter`). Examples without cells are left out; None when fewer than two are left.
    """
    runner = Runner(segmenter, choose_device(device), augment=False)
    styles, diameters = [], []
    for k, example in enumerate(examples):
        report("training the size model", k, len(examples), example.name)
        diameter = median_diameter(example.labels)
        if diameter == 0:
            continue
        planes = Planes(example.image, segmenter, segmenter.channels)
        for view in range(VIEWS):
            rng = np.random.default_rng([seed, k, view])
            base = 1.0 if view % 2 else segmenter.diameter / diameter
            zoom = min(base * 2.0 ** rng.uniform(-OCTAVES, OCTAVES), LARGEST_ZOOM)
            height, width = (max(16, round(n * zoom)) for n in (planes.height, planes.width))
            y, x = (_window(n, rng) for n in (height, width))
            pixels = planes.read(Resampling(planes.height, height), Resampling(planes.width, width), y, x)
            pixels = np.rot90(pixels, int(rng.integers(4)), axes=(1, 2))
            pixels = pixels[:, :, :: rng.choice([-1, 1])]
            styles.append(runner.style(np.ascontiguousarray(pixels)))
            diameters.append(diameter * zoom)
    report("training the size model", len(examples), len(examples), "")
    if len({round(d, 3) for d in diameters}) < 2:
        return None
    return fit_size_model(np.array(styles), np.array(diameters))


def _window(length: int, rng: np.random.Generator) -> slice:
    start = int(rng.integers(0, max(1, length - SIDE + 1)))
    return slice(start, min(length, start + SIDE))
