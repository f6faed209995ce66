"""`CellSegmenter`: one model for each kind of image, and one for elongated cells; saved and loaded as a model."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import atomic_path, sha256
from cellweave.models.folder import (
    CARD,
    FORMAT,
    SETTINGS,
    card_lines,
    check_file,
    kind_of,
    read_settings,
    refusing,
    write_settings,
)
from cellweave.models.segmenter import Segmenter
from cellweave.prep.modality import MODALITIES

KIND = "cell-segmenter"
OMNIPOSE, GENERAL = "omnipose", "general"
BRANCHES = (*MODALITIES, GENERAL, OMNIPOSE)
PROBABILITY = "probability"
"""Name of the map that tells whether a pixel belongs to a cell."""
LOWEST, MARGIN = 0.8, 0.05
"""The paper's thresholds of the quality estimator, Sec. 2.2.3."""


@dataclass(frozen=True)
class CellSegmenter:
    """Several models, of which `cellweave.predict.segment` chooses one for each image.

    Parameters
    ----------
    branches
        Models by name. ``grayscale``, ``fluorescence`` and ``brightfield`` are for images of this modality
        (`cellweave.prep.modality`), ``general`` for those that have no model of their own. ``omnipose`` is for
        elongated cells: it runs on grayscale images beside the other, and the one that is surer of itself counts
        (`cellweave.predict.quality`).
    lowest, margin
        Confidence, in 0..1, under which a grayscale image's own branch is not believed, and by how much ``omnipose``
        must be surer of itself to count.
    name, card
        As of a `Segmenter`; each branch has its own, too.
    hash
        SHA-256 of the branches' names and hashes, and of thresholds unlike the paper's; empty for a model that was
        never saved.

    Raises
    ------
    InputError
        For other names, when no branch is there for a modality, one has no map of the probability of cells, or a
        threshold is not in 0..1.

    References
    ----------
    Hu et al. 2022, *Cell Segmenter: A General Framework for Multi-modality Cell Segmentation*, Sec. 2.2-2.3.
    """

    branches: dict[str, Segmenter]
    name: str = "unnamed"
    card: dict[str, Any] = field(default_factory=dict)
    hash: str = ""
    lowest: float = LOWEST
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if not (0 <= self.lowest <= 1 and 0 <= self.margin <= 1):
            raise InputError(
                f"model '{self.name}': lowest is {self.lowest}, margin {self.margin}; both must be between 0 and 1"
            )
        known = ", ".join(BRANCHES)
        for branch, model in self.branches.items():
            if branch not in BRANCHES:
                raise InputError(f"model '{self.name}': a branch cannot have the name '{branch}'; choose from {known}")
            if PROBABILITY not in model.representation.map_names:
                raise InputError(
                    f"model '{self.name}': the branch '{branch}' has no map of the probability that a pixel belongs "
                    f"to a cell; its {type(model.representation).__name__} cannot be compared with others"
                )
        object.__setattr__(self, "branches", {b: self.branches[b] for b in BRANCHES if b in self.branches})
        for modality in MODALITIES:
            self.name_of(modality)

    def name_of(self, modality: str) -> str:
        """Name of the branch for images of a modality: its own, or ``general``.

        Raises
        ------
        InputError
            When there is neither.
        """
        for name in (modality, GENERAL):
            if name in self.branches and name != OMNIPOSE:
                return name
        raise InputError(
            f"model '{self.name}' has no branch for {modality} images; give one of the name '{modality}' or '{GENERAL}'"
        )

    def branch(self, modality: str) -> Segmenter:
        """The model for images of a modality; see `name_of`."""
        return self.branches[self.name_of(modality)]

    def save(self, folder: str | os.PathLike[str]) -> CellSegmenter:
        """Write `model.json`, a card `README.md`, and a folder for each branch, into a new or replaced folder.

        Each branch is a model folder of its own. Returns the model with all hashes. Nothing half-written is left.
        """
        with atomic_path(folder) as temporary:
            saved, hashes = {}, {}
            for name, branch in self.branches.items():
                inside = temporary / name
                inside.mkdir(parents=True)
                saved[name] = branch.write(inside)
                hashes[name] = sha256(inside / SETTINGS)
            model = replace(self, branches=saved, hash=self._hash(saved))
            thresholds = {"lowest": self.lowest, "margin": self.margin}
            settings = {"format": FORMAT, "kind": KIND, "name": self.name, "branches": hashes, "card": self.card}
            write_settings(temporary, settings | thresholds)
            (temporary / CARD).write_text(model.card_text(), encoding="utf-8")
        return model

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> CellSegmenter:
        """Read a model folder with its branches; nothing in it is executed.

        Raises
        ------
        ModelError
            When a file is missing, was altered since it was saved, or is from a newer cellweave.
        """
        root = Path(folder)
        with refusing(root):
            settings = read_settings(root)
            if settings.get("kind") != KIND:
                raise ModelError(f"model folder {root} holds no {KIND} of several models; use it with load_model")
            branches = {}
            for name, expected in settings["branches"].items():
                if name not in BRANCHES:
                    raise ModelError(f"model folder {root}: '{name}' is not the name of a branch; update cellweave")
                check_file(root, f"{name}/{SETTINGS}", expected)  # which holds the hash of the weights
                branches[name] = Segmenter.load(root / name)
            thresholds = {name: settings[name] for name in ("lowest", "margin") if name in settings}
            model = cls(branches, settings["name"], settings["card"], **thresholds)
            return replace(model, hash=model._hash(branches))

    def _hash(self, branches: dict[str, Segmenter]) -> str:
        lines = [f"{name} {branches[name].hash}" for name in BRANCHES if name in branches]
        lines.append(f"{self.lowest} {self.margin}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def card_text(self) -> str:
        """The model card, in Markdown, with the cards of the branches."""
        facts = {
            "Kind": "Cell Segmenter: one of several models is chosen for each image",
            "Branches": ", ".join(self.branches),
            "Branches (SHA-256)": self.hash,
        }
        if OMNIPOSE in self.branches:
            facts["Omnipose counts"] = f"where C(own) < {self.lowest:g} or C(omnipose) - C(own) > {self.margin:g}"
        lines = [f"# Model card: {self.name}", "", *card_lines(facts | self.card)]
        for name, branch in self.branches.items():
            rest = branch.card_text().splitlines()[1:]
            lines += [
                "",
                f"## Branch {name}: {branch.name}",
                *("#" + line if line[:1] == "#" else line for line in rest),
            ]
        return "\n".join(lines) + "\n"


def is_cell_segmenter(folder: Path) -> bool:
    """Whether a folder says that it holds one; not whether it is whole."""
    return kind_of(folder) == KIND
