"""`segment_frames`: a time lapse in, the cells of each frame out, one frame in memory at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from cellweave.core.errors import CellweaveError
from cellweave.core.image import Image
from cellweave.core.progress import report
from cellweave.models import AnyModel, CellSegmenter, Segmenter
from cellweave.predict.branches import Branch, choose
from cellweave.predict.maps import estimate_diameter
from cellweave.predict.segmentation import Segmentation, check_confidence, load_any, parse_diameter, segment
from cellweave.prep import Channels

log = logging.getLogger(__name__)

SAMPLED = 5
"""What holds for a whole film (diameter, branch, channels) is decided on this many frames, evenly spaced."""


class Frames(Sequence[Segmentation]):
    """The frames of a time lapse; each is read and segmented when it is indexed, every time anew, and none is kept.

    A frame that cannot be read or segmented raises a `CellweaveError` when it is indexed; the others are as good as
    without it.

    Parameters
    ----------
    image
        Axes (T, C, Y, X), or (C, Y, X) for a single frame.
    one
        Segments a frame (C, Y, X).
    """

    def __init__(self, image: Image, one: Callable[[Image], Segmentation]) -> None:
        self.image, self._one = check_film(image), one

    def __len__(self) -> int:
        return self.image.size("T")

    @overload
    def __getitem__(self, t: int) -> Segmentation: ...
    @overload
    def __getitem__(self, t: slice) -> Sequence[Segmentation]: ...
    def __getitem__(self, t: int | slice) -> Segmentation | Sequence[Segmentation]:
        if isinstance(t, slice):
            return [self[i] for i in range(len(self))[t]]
        frame = range(len(self))[t]
        report("frames", frame, len(self), self.image.source)
        return self._one(self.image.plane(t=frame))


def segment_frames(
    image: Image,
    model: AnyModel | Sequence[AnyModel] = "default",
    *,
    diameter: float | str | None = None,
    channels: str | Channels | None = None,
    device: str = "auto",
    augment: bool = False,
    min_confidence: float = 0.0,
) -> Frames:
    """Find and outline the cells of each frame of a time lapse.

    Every frame is segmented as by `segment`; ids begin at 1 in each, cells are not followed through time. What one
    frame may get wrong is decided once for the film, on `SAMPLED` frames: a diameter that is not given is the median
    of those estimated there; what most of them call for is the branch of a `CellSegmenter`, and what channels ``auto``
    stands for. A frame that cannot be read has no say.

    Parameters
    ----------
    image
        Axes (T, C, Y, X), lazy or not; of a (C, Y, X) image the only frame is segmented. Of a time lapse of stacks,
        choose a depth first: ``image.select(z=3)``.
    model, diameter, channels, device, augment, min_confidence
        As for `segment`.

    Returns
    -------
    Frames
        A sequence: ``for found in segment_frames(film)``, or ``segment_frames(film)[7]``.

    Raises
    ------
    InputError
        As `segment`; also when the image has several depths.
    """
    film, loaded = check_film(image), load_any(model)
    check_confidence(min_confidence)
    given = parse_diameter(diameter, film)
    options: dict[str, Any] = {"channels": channels, "device": device, "augment": augment}
    branch: Branch | None = None
    if isinstance(loaded, CellSegmenter):
        branch = _branch(film, loaded, diameter=given, **options)
        models: tuple[Segmenter, ...] = (loaded.branches[branch.name],)
    else:
        models = loaded
    if {Channels()} == ({one.channels for one in models} if channels is None else {Channels.parse(channels)}):
        options["channels"] = _most(of_some(film, Channels().resolve))
    if given is None and models[0].diameter:
        given = film_diameter(film, models[0], channels=options["channels"], device=device)

    def one(frame: Image) -> Segmentation:
        found = segment(frame, models, diameter=given, min_confidence=min_confidence, **options)
        return found if branch is None else replace(found, branch=branch)

    return Frames(film, one)


def film_diameter(
    film: Image, model: Segmenter, *, channels: str | Channels | None = None, device: str = "auto"
) -> float:
    """Cell diameter in px of a time lapse: the median of `estimate_diameter` over `SAMPLED` frames, evenly spaced."""
    return float(
        np.median(of_some(film, lambda frame: estimate_diameter(frame, model, channels=channels, device=device)))
    )


def check_film(image: Image) -> Image:
    """The image without its depth of length 1.

    Raises
    ------
    InputError
        When it has several depths.
    """
    if image.size("Z") > 1:
        image.select(t=0).plane()  # raises: its message says how to choose a depth
    return image.select(z=0)


def _branch(film: Image, system: CellSegmenter, **options: Any) -> Branch:
    found = of_some(film, lambda frame: choose(frame, system, **options)[0])
    name = _most([branch.name for branch in found])
    agreed: list[Branch] = [branch for branch in found if branch.name == name]
    return replace(agreed[0], why=f"{len(agreed)} of {len(found)} frames looked at; the first: {agreed[0].why}")


def _most(found: list[Any]) -> Any:
    """The value that most have; of equally many, the one that comes first."""
    return Counter(found).most_common(1)[0][0]


def of_some(film: Image, look: Callable[[Image], Any]) -> list[Any]:
    """What `look` gives for frames evenly spaced.

    Those that cannot be read or looked at are left out; where none can, the error of the last is raised.
    """
    found: list[Any] = []
    for t in (places := spread(film.size("T"), SAMPLED)):
        try:
            found.append(look(film.plane(t=t)))
        except CellweaveError as error:
            if not found and t == places[-1]:
                raise
            log.info("frame %d is left out: %s", t, error)
    return found


def spread(n: int, most: int) -> list[int]:
    """Up to `most` numbers out of 0..n - 1, evenly spaced, with both ends."""
    return sorted(set(np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()))
