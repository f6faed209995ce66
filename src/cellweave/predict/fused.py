"""`segment_set`: each channel of an image by a model of its own, and one segmentation of all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import CellweaveError, InputError, ModelError
from cellweave.core.image import Image, PixelArray
from cellweave.core.labels import Labels, median_diameter
from cellweave.core.names import plain, same
from cellweave.fusion import flow_fusion, fuse_instances
from cellweave.fusion.fuse_instances import MIN_SIZE
from cellweave.metrics import match
from cellweave.models import Choice, Key, ModelSet, Segmenter
from cellweave.models.model_set import ANY, AVERAGE, FLOW_FUSION, OBJECTS, spoken
from cellweave.predict.maps import as_plane, estimate_diameter, predict_maps
from cellweave.predict.segmentation import Segmentation, check_confidence, parse_diameter, without_doubtful
from cellweave.prep import Channels, empty_channels
from cellweave.representations.base import Maps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rater:
    """A model of a set, and the channel that it looks at.

    Parameters
    ----------
    reporter
        As the set writes it; for a model for any channel, as the image does.
    key
        Of the model.
    channel
        From 0; None for the average of the channels.
    """

    reporter: str
    key: Key
    channel: int | None


@dataclass(frozen=True)
class Pick:
    """Which models of a set segment an image, and why not others.

    Parameters
    ----------
    object, cell_line
        What is looked for.
    raters
        The models used, at least one, in the order of the channels.
    choice
        What the set says about this object and cell line.
    no_model
        Channels of the image that the set has no model for.
    no_channel
        Reporters that the set has a model for, and the image no channel.
    empty
        Channels with a model that hold no signal: all pixels are equal, or none is finite.
    not_chosen
        Channels with a model that are not in the chosen subset.
    """

    object: str
    cell_line: str
    raters: tuple[Rater, ...]
    choice: Choice
    no_model: tuple[str, ...] = ()
    no_channel: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    not_chosen: tuple[str, ...] = ()

    @property
    def reporters(self) -> tuple[str, ...]:
        """Whose models are used."""
        return tuple(rater.reporter for rater in self.raters)

    @property
    def missing(self) -> tuple[str, ...]:
        """Chosen reporters whose models cannot be used on this image."""
        return tuple(name for name in self.choice.reporters if not any(same(name, used) for used in self.reporters))

    @property
    def is_choice(self) -> bool:
        """Whether exactly the chosen reporters are used."""
        chosen = {plain(name) for name in self.choice.reporters}
        return chosen == {plain(name) for name in self.reporters}

    @property
    def text(self) -> str:
        """All of it, in a line for people."""
        names = ", ".join(self.reporters)
        used = f"{spoken(self.choice.method)} of {names}" if len(self.raters) > 1 else f"the model for {names} alone"
        parts = [f"{self.object} of {self.cell_line}: {used}"]
        if self.choice.reporters and not any(same(a, b) for a in self.choice.reporters for b in self.reporters):
            parts.append(f"none of the chosen {', '.join(self.missing)} can be used, so all others are")
        elif self.missing:
            parts.append(f"without the chosen {', '.join(self.missing)}")
        for what, which in (
            ("no model for the channel", self.no_model),
            ("no channel for the model of", self.no_channel),
            ("no signal in", self.empty),
            ("not in the chosen subset:", self.not_chosen),
        ):
            if which:
                parts.append(f"{what} {', '.join(which)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Fused(Segmentation):
    """A `Segmentation` by several models of a set.

    `maps` are the mean of those of the raters, where they can be averaged, else those of the first. By flow fusion the
    labels are decoded from them. `model` is the first.

    Parameters
    ----------
    pick
        Which models were used.
    """

    pick: Pick | None = None


def segment_set(
    image: Image | NDArray[Any],
    model_set: ModelSet,
    *,
    cell_line: str | None = None,
    objects: Sequence[str] = (),
    diameters: Mapping[str, float | str] | None = None,
    device: str = "auto",
    augment: bool = False,
    min_confidence: float = 0.0,
) -> dict[str, Fused]:
    """Segment nuclei and cells of an image by the models of a set, which its channels' names pick.

    Each model sees its channel alone, once; then the chosen subset is fused by the chosen method (`Choice`).

    Parameters
    ----------
    image
        2-D image; its `channel_names` are compared with the set's reporters. `named` gives it others.
    model_set
        The models.
    cell_line
        Of the image; may be left out where the set has one only.
    objects
        Nuclei, cells or both; without them, those of the cell line that a model can be used for. A warning is logged
        about others, and only where none is left there is an error.
    diameters
        Of the objects, by object, in px or as text (``"12um"``). Without it each model gets the diameter that it was
        trained at (`ModelSet.training`); those that do not know theirs get the median of the others', else of what
        they estimate.
    device, augment, min_confidence
        As for `cellweave.predict.segment`.

    Returns
    -------
    dict
        By object. The score of an object fused from label images is the mean over the models of that of the object
        that it matches at IoU 0.5, which is 0 where there is none. Scores of several models are calibrated where the
        choice has a calibration and exactly its models are used; else the score is the confidence.

    Raises
    ------
    ModelError
        When the set has no model for the cell line, for an object, or for any channel of the image.
    InputError
        When the image does not tell the names of its channels, two have the same, maps cannot be averaged, or a
        diameter is given of something else than nuclei and cells.

    References
    ----------
    *Cell Segmentation in Images Without Structural Fluorescent Reporters*, Sec. 3.2, 3.5 and 3.6. The paper does not
    say what happens when a channel of the chosen subset is missing: here the others of the subset are used, and where
    none is there, all other models that have a channel.
    """
    check_confidence(min_confidence)
    if unknown := [name for name in diameters or {} if name not in OBJECTS]:
        raise InputError(f"diameters of {', '.join(unknown)}: an object is one of {', '.join(OBJECTS)}")
    picture, line = as_plane(image), model_set.cell_line(cell_line)
    picks, left_out = pick_objects(picture, model_set, objects or model_set.objects(line), line)
    if objects and left_out:
        raise next(iter(left_out.values()))
    for name, error in left_out.items():
        log.warning("no %s: %s", name, error)
    return {
        pick.object: _segment(
            picture, model_set, pick, (diameters or {}).get(pick.object), device, augment, min_confidence
        )
        for pick in picks.values()
    }


def named(image: Image, names: Sequence[str]) -> Image:
    """The image with other names of its channels; one without a name has no model.

    Raises
    ------
    InputError
        When there is not one name a channel, or no name at all.
    """
    if len(names) != image.n_channels or not any(names):
        raise InputError(
            f"{image.source or 'image'} has {image.n_channels} channels, and these are {len(names)} reporters: "
            f"{','.join(names)}; give one for each channel, in their order, and nothing between two commas for none"
        )
    return replace(image, channel_names=tuple(name.strip() for name in names))


def find_raters(image: Image, model_set: ModelSet, object: str, cell_line: str) -> Pick:
    """All models of a set that have a channel with signal in an image, whatever the set's choice.

    Raises
    ------
    ModelError, InputError
        As `segment_set`.
    """
    reporters = model_set.reporters(object, cell_line)
    where = image.source or "the image"
    empty = empty_channels(image)
    raters: list[Rater] = []
    no_model, without_signal = [], []
    for channel, name in enumerate(image.channel_names):
        shown = name or f"{channel + 1} (without a name)"
        own = next((r for r in reporters if name and same(r, name)), None)
        if own is None and ANY not in reporters:
            no_model.append(shown)
        elif channel in empty:
            without_signal.append(shown)
        else:
            raters.append(Rater(own or shown, Key(object, cell_line, own or ANY), channel))
    twice = {r.reporter for r in raters if sum(same(r.reporter, other.reporter) for other in raters) > 1}
    if twice:
        raise InputError(
            f"{where} has several channels of the name {', '.join(sorted(twice))}; give each a name of its own with "
            "--reporters"
        )
    if AVERAGE in reporters and len(empty) < image.n_channels:
        raters.append(Rater(AVERAGE, Key(object, cell_line, AVERAGE), None))
    alone = [r for r in reporters if r not in (ANY, AVERAGE)]
    no_channel = tuple(r for r in alone if not any(same(r, name) for name in image.channel_names))
    if raters:
        return Pick(object, cell_line, tuple(raters), Choice(), tuple(no_model), no_channel, tuple(without_signal))
    if without_signal:
        raise InputError(f"{where}: there is no signal in {', '.join(without_signal)}, and no model for other channels")
    if not any(image.channel_names):
        raise InputError(
            f"{where} does not tell the names of its {image.n_channels} channels; say them in their order with "
            f"--reporters; the models for {object} of {cell_line} are for {', '.join(alone)}"
        )
    raise ModelError(
        f"model set '{model_set.name}' has no model for {object} of {cell_line} with the channels "
        f"{', '.join(no_model)} of {where}; it has {', '.join(alone)}; where these are the same by other names, say so "
        "with --reporters"
    )


def pick_models(image: Image, model_set: ModelSet, object: str, cell_line: str) -> Pick:
    """Which models segment an image: those of the chosen subset that have a channel; without one, all that have.

    Raises
    ------
    ModelError, InputError
        As `segment_set`.
    """
    found, choice = find_raters(image, model_set, object, cell_line), model_set.choice(object, cell_line)
    chosen = tuple(r for r in found.raters if any(same(r.reporter, name) for name in choice.reporters))
    if not chosen:
        return replace(found, choice=choice)
    left = tuple(r.reporter for r in found.raters if r not in chosen)
    return replace(found, raters=chosen, choice=choice, not_chosen=left)


def pick_objects(
    image: Image, model_set: ModelSet, objects: Sequence[str], cell_line: str
) -> tuple[dict[str, Pick], dict[str, CellweaveError]]:
    """`pick_models` for each of the objects; and for those that no model can be used for, why not.

    Raises
    ------
    ModelError, InputError
        That of the first object, when no model can be used for any of them.
    """
    picks: dict[str, Pick] = {}
    left_out: dict[str, CellweaveError] = {}
    for name in objects:
        try:
            picks[name] = pick_models(image, model_set, name, cell_line)
        except CellweaveError as error:
            left_out[name] = error
    if not picks:
        raise next(iter(left_out.values()))
    return picks, left_out


def rater_maps(
    image: Image,
    model_set: ModelSet,
    raters: Sequence[Rater],
    *,
    diameter: float | None = None,
    device: str = "auto",
    augment: bool = False,
) -> tuple[list[Maps], float | None]:
    """Maps of each rater's model on its channel, and the diameter of the objects, the median over the raters.

    Diameters are those of `segment_set`; None where all models find cells of any size.
    """
    for rater in raters:
        model_set.model(rater.key).representation.check_size(image.height, image.width)
    sizes = _diameters(image, model_set, raters, device) if diameter is None else [diameter] * len(raters)
    maps = []
    for rater, size in zip(raters, sizes, strict=True):
        model = model_set.model(rater.key)
        view, channels = _view(image, rater, model)
        maps.append(predict_maps(view, model, diameter=size, channels=channels, device=device, augment=augment))
    known = [size for size in sizes if size]
    return maps, float(np.median(known)) if known else None


def set_diameter(image: Image, model_set: ModelSet, object: str, cell_line: str, device: str = "auto") -> float | None:
    """The diameter in px that `segment_set` estimates where none is given and no model knows its own; else None."""
    raters = pick_models(image, model_set, object, cell_line).raters
    if any(model_set.training(rater.key).diameter for rater in raters):
        return None
    return _diameters(image, model_set, raters, device)[0]


def averageable(models: Sequence[Segmenter]) -> bool:
    """Whether the maps of these models mean the same, so that flow fusion can average them."""
    kinds = {type(model.representation) for model in models}
    return len(models) == 1 or (len(kinds) == 1 and models[0].representation.points == 0)


def fuse(
    maps: Sequence[Maps], models: Sequence[Segmenter], method: str = FLOW_FUSION
) -> tuple[Labels, NDArray[np.float32], Maps]:
    """Labels (Y, X) with ids 1..n, their scores (n,), and the maps that stand for all; see `Fused`.

    Those of a lone model are its confidence; those of several are not calibrated.

    Raises
    ------
    InputError
        When flow fusion is asked for and the maps cannot be averaged.
    """
    mean = flow_fusion(maps) if averageable(models) else maps[0]
    if len(models) == 1:
        return *models[0].decode_scored(maps[0]), maps[0]
    if method == FLOW_FUSION:
        if not averageable(models):
            kinds = ", ".join(sorted({type(model.representation).__name__ for model in models}))
            raise InputError(
                f"flow fusion averages maps, and those of the models {', '.join(m.name for m in models)} ({kinds}) "
                "cannot be averaged; choose another method with cellweave fuse select"
            )
        return *models[0].with_(calibration=None).decode_scored(mean), mean
    found = [model.with_(calibration=None).decode_scored(one) for model, one in zip(models, maps, strict=True)]
    labels = fuse_labels([one for one, _ in found], models, method)
    total = np.zeros(int(labels.max(initial=0)), np.float32)
    for one, confidence in found:
        pairs = match(one, labels, 0.5)
        total[pairs.predicted_ids - 1] += confidence[pairs.truth_ids - 1]
    return labels, total / np.float32(len(models)), mean


def fuse_labels(labels: Sequence[Labels], models: Sequence[Segmenter], method: str) -> Labels:
    """`fuse_instances`, with the least size of objects that the first model decodes with."""
    size = getattr(models[0].representation, "min_size", MIN_SIZE)
    return fuse_instances(labels, method, min_size=size)  # type: ignore[arg-type]


def _segment(
    image: Image,
    model_set: ModelSet,
    pick: Pick,
    diameter: float | str | None,
    device: str,
    augment: bool,
    min_confidence: float,
) -> Fused:
    given = parse_diameter(diameter, image)
    maps, size = rater_maps(image, model_set, pick.raters, diameter=given, device=device, augment=augment)
    models = [model_set.model(rater.key) for rater in pick.raters]
    labels, confidence, mean = fuse(maps, models, pick.choice.method)
    if pick.choice.calibration and len(models) > 1 and pick.is_choice:
        confidence = pick.choice.calibration.apply(confidence)
    labels, confidence, dropped = without_doubtful(labels, confidence, min_confidence)
    size = size if size and any(model.diameter for model in models) else median_diameter(labels)
    return Fused(labels, confidence, mean, size, models[0], image, dropped, pick=pick)


def _diameters(image: Image, model_set: ModelSet, raters: Sequence[Rater], device: str) -> list[float | None]:
    """Of each rater: that of its training, else the median of those of others, else of the estimates."""
    own = [model_set.training(rater.key).diameter for rater in raters]
    known = [size for size in own if size]
    if not known:
        for rater in raters:
            model = model_set.model(rater.key)
            view, channels = _view(image, rater, model)
            known += [estimate_diameter(view, model, channels=channels, device=device)] if model.diameter else []
    return [size or (float(np.median(known)) if known else None) for size in own]


def _view(image: Image, rater: Rater, model: Segmenter) -> tuple[Image, Channels]:
    """What the model of a rater sees, and by which policy: the channels that its own may name are not there."""
    if rater.channel is None:
        empty = empty_channels(image)
        lit = [channel for channel in range(image.n_channels) if channel not in empty]
        return replace(with_channels(image, lit), color=True), Channels("gray")  # the mean, each normalised before
    own = model.channels.policy
    return with_channels(image, [rater.channel]), Channels(own if own in ("merged", "color") else "gray")


def with_channels(image: Image, channels: Sequence[int]) -> Image:
    """Some channels of a (C, Y, X) image, in this order; pixels are read when they are indexed."""
    return replace(
        image,
        data=_Channels(image.data, tuple(channels)),
        channel_names=tuple(image.channel_names[c] for c in channels),
        limits=None if image.limits is None else tuple(image.limits[c] for c in channels),
        color=False,
    )


class _Channels:
    """Some channels of a lazy (C, Y, X) array."""

    def __init__(self, data: PixelArray, channels: tuple[int, ...]) -> None:
        self._data, self._channels = data, channels
        self.shape = (len(channels), *data.shape[1:])
        self.dtype = data.dtype

    def __getitem__(self, key: tuple[int | slice, ...]) -> Any:
        if isinstance(key[0], int):
            return self._data[self._channels[key[0]], *key[1:]]
        return np.stack([self._data[channel, *key[1:]] for channel in self._channels[key[0]]])
