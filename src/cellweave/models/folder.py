"""The files of a model folder: settings with their hash, hashes of other files, a card for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellweave.core.errors import ModelError
from cellweave.core.files import sha256

FORMAT = 1
SETTINGS, WEIGHTS, CARD = "model.json", "model.safetensors", "README.md"
SAM = "sam"
COUNTERS = {"area": "an area model", "blobs": "a model of blobs", "mask-rcnn": "a Mask R-CNN", SAM: "a SAM"}
"""Kinds that count and are no `Segmenter`, in words; `cellweave.predict.counters` loads them."""


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings, without the entry that holds it."""
    rest = {k: v for k, v in settings.items() if k != "settings_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_settings(folder: Path, settings: Mapping[str, Any], name: str = SETTINGS) -> None:
    """Write settings as JSON, with the hash of what they say."""
    signed = dict(settings) | {"settings_sha256": settings_hash(settings)}
    (folder / name).write_text(json.dumps(signed, indent=2) + "\n", encoding="utf-8")


def read_settings(root: Path, name: str = SETTINGS) -> dict[str, Any]:
    """What the JSON file of a model folder says; to be called within `refusing`.

    Raises
    ------
    ModelError
        When it is missing, was altered since it was saved, or is from a newer cellweave.
    """
    _must_exist(root, name)
    settings: dict[str, Any] = json.loads((root / name).read_text(encoding="utf-8"))
    if settings["format"] > FORMAT:
        raise ModelError(f"model folder {root} was made by a newer cellweave; update cellweave to use it")
    if settings_hash(settings) != settings["settings_sha256"]:
        raise _altered(root, name)
    return settings


def check_file(root: Path, name: str, expected: str) -> None:
    """Raise a `ModelError` when a file is missing, or its SHA-256 is not the one expected."""
    _must_exist(root, name)
    if sha256(root / name) != expected:
        raise _altered(root, name)


def _must_exist(root: Path, name: str) -> None:
    if not (root / name).is_file():
        raise ModelError(f"model folder {root}: the file {name} is missing; copy the whole folder again")


def _altered(root: Path, name: str) -> ModelError:
    return ModelError(
        f"model folder {root}: {name} was altered or is damaged (its hash differs); copy the folder again"
    )


@contextmanager
def refusing(root: Path) -> Iterator[None]:
    """Whatever cannot be read or does not fit together becomes a `ModelError` that names the folder."""
    from safetensors import SafetensorError

    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model folder {root} cannot be used ({type(error).__name__}: {error}); copy the folder again"
        ) from error


def kind_of(root: Path) -> str:
    """What kind of model a folder says it holds: ``""`` for a single one, or where it says nothing that can be read.

    A folder without our settings is a SAM where transformers says so in its ``config.json``.
    """
    if not (root / SETTINGS).is_file():
        return SAM if _entry(root / "config.json", "model_type") == SAM else ""
    kind = _entry(root / SETTINGS, "kind")
    return kind if isinstance(kind, str) else ""


def _entry(file: Path, name: str) -> Any:
    """An entry of a JSON file; None where there is none that can be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def only_counts(root: Path) -> ModelError:
    """What to say when a folder of `COUNTERS` is used for outlines."""
    kind = kind_of(root)
    return ModelError(f"{root} holds {COUNTERS.get(kind, kind)}, which only counts; use it with cellweave count")


def card_text(name: str, facts: Mapping[str, Any]) -> str:
    """A model card, in Markdown."""
    return "\n".join([f"# Model card: {name}", "", *card_lines(facts)]) + "\n"


def card_lines(facts: Mapping[str, Any]) -> list[str]:
    """Facts in Markdown: a list, and then a section for each table and each group of facts."""
    lines: list[str] = []
    for title, value in sorted(facts.items(), key=lambda entry: isinstance(entry[1], (list, dict))):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(value[0])
            lines += ["", f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
            lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in value]
        elif isinstance(value, dict):
            lines += ["", f"## {title}", ""] + [f"- {k}: {v}" for k, v in value.items()]
        else:
            lines.append(f"- {title}: {value}")
    return lines
