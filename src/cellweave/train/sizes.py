"""Training the size model, after the net."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellweave.core.device import choose_device
from cellweave.core.progress import report
from cellweave.models import Segmenter, SizeModel, fit_size_model
from cellweave.predict.maps import Planes, Runner
from cellweave.predict.size import read_regions, views
from cellweave.train.samples import Example

VIEWS = 3
"""Random sizes at which each example is looked at; at each, the windows of all zooms that serve are used."""
LARGEST_FACTOR = 3.0
"""Windows whose cells are up to this factor larger or smaller than the training diameter are learned from: in trials,
those of 8 to 72 px for a training diameter of 24 px gave better answers on unknown kinds of image than 5 to 110 px."""


def train_size_model(
    segmenter: Segmenter, examples: Sequence[Example], *, seed: int = 0, device: str = "auto"
) -> SizeModel | None:
    """Fit style vectors to diameters on random views of each example (challenge paper, Sec. 3.2.2).

    An example is resized by up to half an octave, turned by quarters and mirrored; then the windows are taken that
    `estimate_diameter` would look at, at each of its zooms. The ridge is chosen by holding out whole examples.
    Examples without cells are left out; None when fewer than two views are left.
    """
    runner = Runner(segmenter, choose_device(device), augment=False)
    styles, diameters, sources = [], [], []
    for k, example in enumerate(examples):
        report("training the size model", k, len(examples), example.name)
        diameter = example.median_diameter
        if diameter == 0:
            continue
        planes = Planes(example.image, segmenter, segmenter.channels)
        for view in range(VIEWS):
            rng = np.random.default_rng([seed, k, view])
            scale, turns, mirror = 2.0 ** rng.uniform(-0.5, 0.5), int(rng.integers(4)), rng.choice([-1, 1])
            regions = [np.rot90(region, turns, (1, 2))[:, :, ::mirror] for region in read_regions(planes, scale)]
            for zoom, windows in views(regions):
                shown = diameter * scale * zoom
                if not 1 / LARGEST_FACTOR <= shown / segmenter.diameter <= LARGEST_FACTOR:
                    continue
                for window in windows:
                    styles.append(runner.styles(window[None])[0])
                    diameters.append(shown)
                    sources.append(k)
    report("training the size model", len(examples), len(examples), "")
    if len({round(d, 3) for d in diameters}) < 2:
        return None
    return fit_size_model(np.array(styles), np.array(diameters), groups=np.array(sources))
