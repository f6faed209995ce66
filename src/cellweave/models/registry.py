"""Finding models: the embedded ones, the user's own folder, any path, and Cellpose weight files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cellweave.core.errors import ModelError
from cellweave.core.files import sha256
from cellweave.models.cell_segmenter import CellSegmenter, is_cell_segmenter
from cellweave.models.cellpose_weights import load_cellpose_size_model, load_cellpose_weights
from cellweave.models.folder import COUNTERS, SETTINGS, kind_of, only_counts
from cellweave.models.model_set import SET, ModelSet, is_model_set
from cellweave.models.segmenter import Segmenter
from cellweave.prep import Normalisation
from cellweave.representations import DiffusionFlows

EMBEDDED = Path(__file__).parent / "embedded"
CELLPOSE_NAMES = ("cyto3", "cyto2", "cyto", "nuclei")

AnyModel = str | os.PathLike[str] | Segmenter | CellSegmenter
"""What `load_model` takes."""


@dataclass(frozen=True)
class ModelEntry:
    """A model that `load_model` finds by name."""

    name: str
    path: Path
    origin: str


def user_folder() -> Path:
    """Where the user's models lie: ``$CELLWEAVE_MODELS``, or the usual data folder of the system."""
    if chosen := os.environ.get("CELLWEAVE_MODELS"):
        return Path(chosen)
    from platformdirs import user_data_path

    return user_data_path("cellweave") / "models"


def _cellpose_folder() -> Path:
    """Where the Cellpose package keeps the weights it has downloaded."""
    return Path(os.environ.get("CELLPOSE_LOCAL_MODELS_PATH", Path.home() / ".cellpose" / "models"))


def list_models() -> list[ModelEntry]:
    """Models that can be named: embedded, the user's, and official Cellpose weights found on this machine."""
    entries = [ModelEntry(p.parent.name, p.parent, "embedded") for p in sorted(EMBEDDED.glob(f"*/{SETTINGS}"))]
    entries += [ModelEntry(p.parent.name, p.parent, "user") for p in sorted(user_folder().glob(f"[!.]*/{SETTINGS}"))]
    for name in CELLPOSE_NAMES:
        for file in (_cellpose_folder() / name, _cellpose_folder() / f"{name}torch_0"):
            if file.is_file():
                entries.append(ModelEntry(name, file, "Cellpose weights"))
                break
    return entries


def load_model(model: AnyModel = "default") -> Segmenter | CellSegmenter:
    """Load a model by name, from a model folder, or from a file of Cellpose 1 to 3 weights.

    A model that is already loaded is returned as it is. A file or a model folder wins over a name, other
    folders do not. Each branch of a `CellSegmenter` is a model folder, too.

    Raises
    ------
    ModelError
        When nothing has that name (lists what there is), the files are incomplete or damaged, or the model only counts.
    """
    if isinstance(model, (Segmenter, CellSegmenter)):
        return model
    path = find_model(model)
    if not path.is_dir():
        return _from_cellpose(path)
    if kind_of(path) in COUNTERS:
        raise only_counts(path)
    return CellSegmenter.load(path) if is_cell_segmenter(path) else Segmenter.load(path)


def find_model(model: str | os.PathLike[str]) -> Path:
    """Where a model lies that is given by name or path; a file or a model folder wins over a name.

    Raises
    ------
    ModelError
        When nothing has that name, or a model set; lists what there is.
    """
    path = Path(model)
    if path.is_file() or (path / SETTINGS).is_file():
        return path
    known = list_models()
    found = next((entry for entry in known if entry.name == str(model)), None)
    if is_model_set(path) or (found is None and is_model_set(user_folder() / path)):
        raise ModelError(
            f"'{model}' is a model set, which picks its models by an image's channels; use it with --model-set, or "
            "give one of the model folders in it"
        )
    if found is not None:
        return found.path
    if path.exists():
        return path  # of what is not there, reading it tells
    hint = ""
    if str(model) in CELLPOSE_NAMES:
        hint = f" (Cellpose's own weights are used when their file lies in {_cellpose_folder()})"
    names = ", ".join(sorted({entry.name for entry in known}))
    raise ModelError(f"there is no model or model folder '{model}'{hint}; known models: {names}")


def list_sets() -> list[ModelEntry]:
    """Model sets of the user that can be named."""
    return [ModelEntry(p.parent.name, p.parent, "user, model set") for p in sorted(user_folder().glob(f"[!.]*/{SET}"))]


def load_set(name: str | os.PathLike[str] | ModelSet) -> ModelSet:
    """A model set by name or folder; one that is loaded is returned as it is. A path wins over a name.

    Raises
    ------
    ModelError
        When there is none of that name, or its files are damaged; lists what there is.
    """
    if isinstance(name, ModelSet):
        return name
    if is_model_set(Path(name)):
        return ModelSet.load(name)
    known = list_sets()
    found = next((entry for entry in known if entry.name == str(name)), None)
    if found is None:
        names = ", ".join(entry.name for entry in known) or "none yet; make one with cellweave models add"
        raise ModelError(f"there is no model set '{name}' (a folder with a {SET}); known sets: {names}")
    return ModelSet.load(found.path)


def load_segmenter(model: AnyModel = "default") -> Segmenter:
    """As `load_model`, for where a single model is needed.

    Raises
    ------
    ModelError
        As `load_model`, and for a `CellSegmenter`: says which of its branches can be given instead.
    """
    loaded = load_model(model)
    if isinstance(loaded, Segmenter):
        return loaded
    raise ModelError(
        f"model '{loaded.name}' is a Cell Segmenter, of whose models segment chooses one for each image; here a single "
        f"one is needed: use segment, or give one of its branches ({', '.join(loaded.branches)}), each a folder in the "
        "model's folder"
    )


def _from_cellpose(path: Path) -> Segmenter:
    """A Cellpose file as a Segmenter, prepared and decoded as Cellpose does (intensities are not clipped).

    Its size model is used when it lies beside it, named as Cellpose names it: `size_cyto3.npy`.
    """
    weights = load_cellpose_weights(path)
    if weights.net.out_maps != 3:
        raise ModelError(f"{path}: this network gives {weights.net.out_maps} maps; Cellpose flows are 3")
    size_file = path.with_name(f"size_{path.name}.npy")
    return Segmenter(
        weights.net,
        DiffusionFlows(check_border=True),
        weights.diam_mean,
        normalisation=Normalisation(clip=None),
        size_model=load_cellpose_size_model(size_file) if size_file.is_file() else None,
        name=path.name,
        card={"Source": f"Cellpose weights, {path}", "Licence": "that of the weights' authors"},
        hash=sha256(path),
    )
