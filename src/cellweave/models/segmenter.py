"""`Segmenter`: net + representation + preparation + training diameter; what is saved, loaded and shared."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import atomic_path, sha256
from cellweave.core.labels import Labels
from cellweave.models.calibration import Calibration
from cellweave.models.count_calibration import CountCalibration
from cellweave.models.folder import (
    CARD,
    FORMAT,
    WEIGHTS,
    card_text,
    check_file,
    only_counts,
    read_settings,
    refusing,
    write_settings,
)
from cellweave.models.size_model import SizeModel
from cellweave.nets import NETS
from cellweave.prep import Channels, Normalisation
from cellweave.representations import REPRESENTATIONS, MapFormat, PointRepresentation, Representation
from cellweave.representations.base import Maps


@dataclass(frozen=True)
class Segmenter:
    """A trained model.

    Parameters
    ----------
    net
        Module with `in_channels`, `stride` and `radius`; (B, C, Y, X) to `NetOutput`.
    representation
        What the net's outputs mean, with the decoding parameters.
    diameter
        Cell diameter in px that the net was trained on; images are resized to it. 0 for a net that finds cells of
        any size: images keep theirs.
    normalisation, channels
        How pixels are prepared.
    size_model
        Estimates the diameter where the user does not give one.
    calibration
        Makes probabilities of the scores of objects; without it, the scores are the confidence.
    count_calibration
        Makes intervals of the spread of counts that hold true counts as often as they say.
    name, card
        For people: what it was trained on, licences, figures.
    hash
        SHA-256 of the weights file; empty for a model that was never saved.

    Raises
    ------
    InputError
        For a diameter where the maps hold values at lone pixels, which do not survive resizing.
    """

    net: nn.Module
    representation: MapFormat
    diameter: float
    normalisation: Normalisation = field(default_factory=Normalisation)
    channels: Channels = field(default_factory=Channels)
    size_model: SizeModel | None = None
    calibration: Calibration | None = None
    count_calibration: CountCalibration | None = None
    name: str = "unnamed"
    card: dict[str, Any] = field(default_factory=dict)
    hash: str = ""

    def __post_init__(self) -> None:
        if self.diameter and self.representation.points:
            raise InputError(
                f"model '{self.name}' has a diameter of {self.diameter:g} px, but maps of "
                f"{type(self.representation).__name__} cannot be resized; give it the diameter 0: cells of any size"
            )

    def with_(self, **changes: Any) -> Segmenter:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @property
    def outlines(self) -> Representation:
        """The representation of a model that outlines cells.

        Raises
        ------
        InputError
            When the model finds positions only.
        """
        if not isinstance(self.representation, Representation):
            raise InputError(
                f"model '{self.name}' finds where cells are, not their outlines; use it to count (cellweave count)"
            )
        return self.representation

    @property
    def positions(self) -> PointRepresentation:
        """The representation of a model that finds positions.

        Raises
        ------
        InputError
            When the model outlines cells.
        """
        if not isinstance(self.representation, PointRepresentation):
            raise InputError(f"model '{self.name}' outlines cells; decode its maps to labels, and count those")
        return self.representation

    def decode_scored(self, maps: Maps) -> tuple[Labels, NDArray[np.float32]]:
        """Maps to labels with ids 1..n, and the confidence (n,) of each: its score, calibrated where it can be.

        Raises
        ------
        InputError
            When the model finds positions only.
        """
        labels, scores = self.outlines.decode_scored(maps)
        return labels, scores if self.calibration is None else self.calibration.apply(scores)

    def save(self, folder: str | os.PathLike[str]) -> Segmenter:
        """Write `model.safetensors`, `model.json` and a card `README.md` into a new or replaced folder.

        Returns the model with its hash. Nothing half-written is left behind.
        """
        with atomic_path(folder) as temporary:
            temporary.mkdir(parents=True)
            return self.write(temporary)

    def write(self, folder: Path) -> Segmenter:
        """As `save`, into a folder that exists, file by file: what goes wrong in between leaves some of them."""
        from safetensors.numpy import save

        arrays = {f"net.{k}": v.detach().cpu().numpy() for k, v in self.net.state_dict().items()}
        if self.size_model is not None:
            arrays["size.coefficients"] = self.size_model.coefficients
            arrays["size.mean_style"] = self.size_model.mean_style
            arrays["size.mean_log_diameter"] = np.array(self.size_model.mean_log_diameter)
        (folder / WEIGHTS).write_bytes(save({k: np.asarray(v, order="C") for k, v in arrays.items()}))
        weights_hash = sha256(folder / WEIGHTS)
        settings = self._settings() | {"sha256": weights_hash}
        write_settings(folder, settings)
        (folder / CARD).write_text(_card_text(settings), encoding="utf-8")
        return replace(self, hash=weights_hash)

    def card_text(self) -> str:
        """The model card, in Markdown."""
        return _card_text(self._settings() | {"sha256": self.hash})

    def net_settings(self) -> dict[str, Any]:
        """Name of the net's class, and what builds it."""
        settings = {
            "name": type(self.net).__name__,
            "in_channels": self.net.in_channels,
            "out_maps": self.net.out_maps,
            "widths": list(cast("tuple[int, ...]", self.net.widths)),
        }
        return settings | ({"boxes": self.net.boxes} if hasattr(self.net, "boxes") else {})

    def _settings(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "net": self.net_settings(),
            "representation": {"name": type(self.representation).__name__, **asdict(self.representation)},  # type: ignore[call-overload]
            "diameter": self.diameter,
            "normalisation": asdict(self.normalisation),
            "channels": str(self.channels),
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "count_calibration": None if self.count_calibration is None else asdict(self.count_calibration),
            "card": self.card,
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Segmenter:
        """Read a model folder; nothing in it is executed.

        Raises
        ------
        ModelError
            When a file is missing, was altered since it was saved, or is from a newer cellweave.
        """
        from safetensors.numpy import load_file

        root = Path(folder)
        with refusing(root):
            settings = read_settings(root)
            if kind := settings.get("kind"):
                if branches := settings.get("branches", ()):
                    raise ModelError(
                        f"model folder {root} holds several models ({kind}); use it with load_model, "
                        f"or load one of its folders: {', '.join(branches)}"
                    )
                raise only_counts(root)
            check_file(root, WEIGHTS, settings["sha256"])
            return cls._from_parts(settings, load_file(root / WEIGHTS))

    @classmethod
    def _from_parts(cls, settings: dict[str, Any], arrays: dict[str, Any]) -> Segmenter:
        import torch

        net_settings = dict(settings["net"])
        net_class = NETS[net_settings.pop("name")]
        net = net_class(**(net_settings | {"widths": tuple(net_settings["widths"])}))
        net.load_state_dict(
            {k.removeprefix("net."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("net.")}
        )
        net.eval()
        representation = dict(settings["representation"])
        representation_class = REPRESENTATIONS[representation.pop("name")]
        normalisation = dict(settings["normalisation"])
        clip = normalisation.pop("clip")
        size_model = None
        if "size.coefficients" in arrays:
            size_model = SizeModel(
                arrays["size.coefficients"],
                arrays["size.mean_style"],
                float(arrays["size.mean_log_diameter"].item()),
            )
        calibration, counts = settings.get("calibration"), settings.get("count_calibration")  # 0.1 had neither
        return cls(
            net,
            representation_class(**representation),
            float(settings["diameter"]),
            normalisation=Normalisation(**normalisation, clip=tuple(clip) if clip else None),
            channels=Channels.parse(settings["channels"]),
            size_model=size_model,
            calibration=None if calibration is None else Calibration(**calibration),
            count_calibration=None if counts is None else CountCalibration(tuple(counts["scores"])),
            name=settings["name"],
            card=settings["card"],
            hash=settings["sha256"],
        )


def _card_text(settings: dict[str, Any]) -> str:
    """The model card, in Markdown, from what `model.json` holds."""
    facts = {
        "Net": settings["net"]["name"],
        "Represents cells by": settings["representation"]["name"],
        "Training diameter": f"{settings['diameter']:g} px" if settings["diameter"] else "any",
        "Channels": settings["channels"],
        "Weights (SHA-256)": settings["sha256"],
    }
    return card_text(settings["name"], facts | settings["card"])
