"""`ModelSet`: models for nuclei and cells, one for each cell line and reporter, in one folder that grows."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import make_output_folder, sha256, write_atomically
from cellweave.core.names import plain, same
from cellweave.fusion import METHODS as LABEL_METHODS
from cellweave.models.calibration import Calibration
from cellweave.models.folder import (
    CARD,
    FORMAT,
    SETTINGS,
    card_lines,
    check_file,
    read_settings,
    refusing,
    settings_hash,
    write_settings,
)
from cellweave.models.segmenter import Segmenter
from cellweave.representations import Representation

SET = "set.json"
OBJECTS = ("nuclei", "cells")
ANY, AVERAGE = "any", "average"
"""In the place of a reporter: a model for every channel, and one for the average of all channels."""
FLOW_FUSION = "flow_fusion"
FUSION_METHODS = (FLOW_FUSION, *LABEL_METHODS)
"""Flow fusion averages maps; the other methods fuse label images (`cellweave.fusion.fuse_instances`)."""

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class Key(NamedTuple):
    """What a model of a set is for."""

    object: str
    cell_line: str
    reporter: str

    def __str__(self) -> str:
        return ", ".join(self)


@dataclass(frozen=True)
class Choice:
    """How the models of one (object, cell line) are used together.

    Parameters
    ----------
    reporters
        Whose models are fused; empty for all that there are.
    method
        One of `FUSION_METHODS`.
    scores
        Figures that it was chosen by.
    calibration
        Of the confidence of objects that several models found together, on the images that it was chosen by.
    """

    reporters: tuple[str, ...] = ()
    method: str = FLOW_FUSION
    scores: dict[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.method not in FUSION_METHODS:
            raise InputError(f"fusion method '{self.method}' is unknown; choose from {', '.join(FUSION_METHODS)}")


@dataclass(frozen=True)
class Training:
    """What a set keeps of how a model was made, as far as it matters when the model is used.

    Parameters
    ----------
    diameter
        Of the objects, in px of the images, that the model learned at, and is used with; None: not known.
    images
        SHA-256 of the files that it learned from or was chosen by, by name.
    prepared
        What was done to them before (`cellweave.prep.Preparation.record`); empty where it is not known.
    """

    diameter: float | None = None
    images: dict[str, str] = field(default_factory=dict)
    prepared: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.diameter is not None and not 0 < self.diameter < float("inf"):
            raise InputError(f"diameter is {self.diameter}; it must be a positive number of pixels, or None")


@dataclass(frozen=True)
class _Entry:
    """Where a model lies within the set, and the SHA-256 of its `model.json`, which holds that of the weights."""

    folder: str
    sha256: str
    training: Training = Training()


@dataclass(frozen=True)
class ModelSet:
    """The models of a folder, by (object, cell line, reporter), and how they are used together.

    The folder holds `set.json`, a card `README.md`, and a usual model folder for each model. Models are read when they
    are first asked for. What changes the set writes the folder and returns the set as it is then; `set.json` is
    replaced last and whole, so that the folder is at any time either the old set or the new one.

    Cell lines and reporters are the same whatever their case and spaces. In the place of a reporter, `ANY` stands for
    a model that looks at every channel which has none of its own, and `AVERAGE` for one that looks at the average of
    all channels.

    Parameters
    ----------
    root
        The folder.
    choices
        By (object, cell line); where there is none, all models are used, with flow fusion.
    card
        For people: data, licences, figures.
    hash
        SHA-256 of what `set.json` says, and so of all models.
    """

    root: Path
    choices: dict[tuple[str, str], Choice] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    hash: str = ""
    _entries: dict[Key, _Entry] = field(default_factory=dict, repr=False)
    _loaded: dict[Key, Segmenter] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], *, card: Mapping[str, Any] | None = None) -> ModelSet:
        """An empty set in a new folder, or one that exists and holds no set.

        Raises
        ------
        ModelError
            When the folder holds a set or a model.
        """
        root = Path(folder)
        for file, what in ((SET, "model set"), (SETTINGS, "model")):
            if (root / file).exists():
                raise ModelError(f"{root} holds a {what} already; choose another folder, or add to the set there")
        make_output_folder(root)
        return cls(root, card=dict(card or {}))._written()

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ModelSet:
        """Read `set.json`; models are read and checked when they are asked for, or by `check`.

        Raises
        ------
        ModelError
            When the file is missing, was altered, or is from a newer cellweave.
        """
        root = Path(folder)
        with refusing(root):
            settings = read_settings(root, SET)
            entries, choices = {}, {}
            for row in settings["models"]:
                key = Key(row["object"], row["cell_line"], row["reporter"])
                entry = _Entry(row["folder"], row["sha256"], Training(**row["training"]))
                if not _FOLDER.fullmatch(entry.folder):
                    raise ModelError(f"model set {root}: '{entry.folder}' is no name of a folder in it; do not use it")
                entries[checked(key)] = entry
            for row in settings["choices"]:
                what = {k: v for k, v in row.items() if k not in ("object", "cell_line")}
                fitted = what.get("calibration")
                what |= {"reporters": tuple(row["reporters"]), "calibration": fitted and Calibration(**fitted)}
                choices[row["object"], row["cell_line"]] = Choice(**what)
            return cls(root, choices, settings["card"], settings["settings_sha256"], entries)

    @property
    def name(self) -> str:
        """That of the folder."""
        return self.root.resolve().name

    @property
    def keys(self) -> tuple[Key, ...]:
        """What there are models for."""
        return tuple(self._entries)

    @property
    def cell_lines(self) -> tuple[str, ...]:
        """Cell lines with a model."""
        return tuple(dict.fromkeys(key.cell_line for key in self._entries))

    def cell_line(self, name: str | None = None) -> str:
        """A cell line as the set writes it; without a name, the only one.

        Raises
        ------
        ModelError
            When the set has no models for it, or several lines to choose from; lists them.
        """
        known = ", ".join(self.cell_lines) or "none: it is empty"
        if name is None:
            if len(self.cell_lines) != 1:
                raise ModelError(f"model set '{self.name}': choose a cell line with --cell-line; it has {known}")
            return self.cell_lines[0]
        for line in self.cell_lines:
            if same(line, name):
                return line
        raise ModelError(f"model set '{self.name}' has no models for the cell line '{name}'; it has {known}")

    def objects(self, cell_line: str) -> tuple[str, ...]:
        """Which of nuclei and cells the set has models for, in a cell line."""
        there = {key.object for key in self._entries if same(key.cell_line, cell_line)}
        return tuple(name for name in OBJECTS if name in there)

    def reporters(self, object: str, cell_line: str) -> tuple[str, ...]:
        """Reporters with a model for this object in this cell line.

        Raises
        ------
        ModelError
            When there is none; says what there is.
        """
        found = tuple(key.reporter for key in self._entries if key.object == object and same(key.cell_line, cell_line))
        if not found:
            there = "; ".join(map(str, self._entries)) or "nothing: it is empty"
            raise ModelError(f"model set '{self.name}' has no model for {object} of {cell_line}; it has {there}")
        return found

    def choice(self, object: str, cell_line: str) -> Choice:
        """How the models of an object and cell line are used; without a choice, all of them with flow fusion."""
        for (known, line), choice in self.choices.items():
            if known == object and same(line, cell_line):
                return choice
        return Choice()

    def find(self, key: Key) -> Key | None:
        """The key as the set writes it, or None where it has no such model."""
        return next((known for known in self._entries if all(map(same, known, key))), None)

    def folder(self, key: Key) -> Path:
        """Where a model lies.

        Raises
        ------
        ModelError
            When the set has no such model; says what it has.
        """
        return self.root / self._entries[self._known(key)].folder

    def model(self, key: Key) -> Segmenter:
        """A model, read once.

        Raises
        ------
        ModelError
            When the set has no such model, or its files are missing or altered.
        """
        known = self._known(key)
        if known not in self._loaded:
            folder = self.root / self._entries[known].folder
            with refusing(folder):
                check_file(folder, SETTINGS, self._entries[known].sha256)
            self._loaded[known] = Segmenter.load(folder)
        return self._loaded[known]

    def training(self, key: Key) -> Training:
        """How a model was made.

        Raises
        ------
        ModelError
            When the set has no such model; says what it has.
        """
        return self._entries[self._known(key)].training

    def check(self) -> None:
        """Read every model; raises a `ModelError` for the first that is missing or altered."""
        for key in self._entries:
            folder = self.folder(key)
            with refusing(folder):
                check_file(folder, SETTINGS, self._entries[key].sha256)
            Segmenter.load(folder)

    def add(
        self,
        model: Segmenter,
        *,
        object: str,
        cell_line: str,
        reporter: str,
        training: Training | None = None,
        overwrite: bool = False,
    ) -> ModelSet:
        """Save a model into the set. A choice that it changes loses figures and calibration.

        Several programs may add to a set one after the other, not at the same moment.

        Parameters
        ----------
        model
            One that outlines objects.
        object
            ``"nuclei"`` or ``"cells"``.
        cell_line, reporter
            Names; `ANY` and `AVERAGE` are reporters, too.
        training
            How it was made.
        overwrite
            Take the place of the model that the set has for these.

        Raises
        ------
        InputError
            When a name is impossible, or the model finds positions only.
        ModelError
            When there is such a model already, and not `overwrite`.
        """
        key = checked(Key(object, cell_line.strip(), reporter.strip()))
        if not isinstance(model.representation, Representation):
            raise InputError(f"model '{model.name}' finds where cells are, not their outlines; a set needs outlines")
        now = ModelSet.load(self.root)  # as it is by now: others may have added to it
        before = now.find(key)
        if before and not overwrite:
            raise ModelError(f"model set '{self.name}' has a model for {before} already; remove it first, or overwrite")
        folder = _free(self.root, key)
        model.save(self.root / folder)
        entry = _Entry(folder, sha256(self.root / folder / SETTINGS), training or Training())
        entries = dict(now._entries)
        entries[before or key] = entry
        choices = {
            place: replace(choice, scores={}, calibration=None) if _concerns(key, place, choice) else choice
            for place, choice in now.choices.items()
        }
        written = replace(now, choices=choices, _entries=entries)._written()
        if before:
            shutil.rmtree(self.root / now._entries[before].folder, ignore_errors=True)
        return written

    def remove(self, key: Key) -> ModelSet:
        """Take a model out, and its reporter out of the choice, which loses figures and calibration.

        A choice that no reporter is left of is deleted.

        Raises
        ------
        ModelError
            When the set has no such model; says what it has.
        """
        now = ModelSet.load(self.root)
        known = now._known(key)
        entries = {other: entry for other, entry in now._entries.items() if other != known}
        choices = dict(now.choices)
        for place, choice in now.choices.items():
            if not _concerns(known, place, choice):
                continue
            there = [key.reporter for key in entries if key.object == place[0] and same(key.cell_line, place[1])]
            left = tuple(
                name
                for name in choice.reporters
                if not same(name, known.reporter) and (ANY in there or any(same(name, other) for other in there))
            )
            choices[place] = replace(choice, reporters=left, scores={}, calibration=None)
            if not there or (choice.reporters and not left):
                del choices[place]
        written = replace(now, choices=choices, _entries=entries)._written()
        shutil.rmtree(self.root / now._entries[known].folder, ignore_errors=True)
        return written

    def choose(self, object: str, cell_line: str, choice: Choice) -> ModelSet:
        """Write how the models of an object and cell line are used together.

        Raises
        ------
        ModelError
            When there is no model for one of the reporters; says which.
        """
        now = ModelSet.load(self.root)
        line = now.cell_line(cell_line)
        there = now.reporters(object, line)
        if ANY not in there:
            missing = [name for name in choice.reporters if not any(same(name, known) for known in there)]
            if missing:
                raise ModelError(
                    f"model set '{self.name}' has no model for {object} of {line} with the reporter "
                    f"{', '.join(missing)}; it has {', '.join(there)}"
                )
        choices = {k: v for k, v in now.choices.items() if not (k[0] == object and same(k[1], line))}
        return replace(now, choices=choices | {(object, line): choice})._written()

    def card_text(self) -> str:
        """The card of the set, in Markdown."""
        facts: dict[str, Any] = {"Models": len(self._entries), "Set (SHA-256)": self.hash, **self.card}
        lines = [f"# Model set: {self.name}", "", *card_lines(facts)]
        for line in self.cell_lines:
            for name in self.objects(line):
                choice = self.choice(name, line)
                scores = ", ".join(f"{k} {v:g}" for k, v in choice.scores.items())
                chosen = ", ".join(choice.reporters) or "all"
                lines += ["", f"## {name} of {line}", ""]
                lines += [
                    f"- {reporter}: {self._about(name, line, reporter)}" for reporter in self.reporters(name, line)
                ]
                lines.append(f"- Used: {chosen}, by {spoken(choice.method)}" + (f" ({scores})" if scores else ""))
        return "\n".join(lines) + "\n"

    def _about(self, object: str, cell_line: str, reporter: str) -> str:
        entry = self._entries[Key(object, cell_line, reporter)]
        made = entry.training
        return (
            f"folder {entry.folder}, SHA-256 of its {SETTINGS} {entry.sha256}"
            + (f", objects of {made.diameter:g} px in the images" if made.diameter else "")
            + (f", made with {len(made.images)} images" if made.images else "")
        )

    def _known(self, key: Key) -> Key:
        known = self.find(key)
        if known is None:
            there = "; ".join(map(str, self._entries)) or "nothing: it is empty"
            raise ModelError(f"model set '{self.name}' has no model for {key}; it has {there}")
        return known

    def _written(self) -> ModelSet:
        settings = {
            "format": FORMAT,
            "card": self.card,
            "models": [key._asdict() | asdict(entry) for key, entry in self._entries.items()],
            "choices": [
                {"object": name, "cell_line": line} | asdict(choice) for (name, line), choice in self.choices.items()
            ],
        }
        write_atomically(self.root / SET, lambda path: write_settings(path.parent, settings, path.name))
        written = replace(self, hash=settings_hash(settings), _loaded={})
        write_atomically(self.root / CARD, lambda path: path.write_text(written.card_text(), encoding="utf-8"))
        return written


def spoken(method: str) -> str:
    """A fusion method's name for people."""
    return method.upper() if method in ("staple", "simple") else method.replace("_", " ")


def is_model_set(folder: Path) -> bool:
    """Whether a folder says that it holds a set; not whether it is whole."""
    return (folder / SET).is_file()


def checked(key: Key) -> Key:
    """The key, with `ANY` and `AVERAGE` as they are written here.

    Raises
    ------
    InputError
        When the object is unknown, or a name is impossible.
    """
    if key.object not in OBJECTS:
        raise InputError(f"a model is for {' or '.join(OBJECTS)}, not for '{key.object}'")
    for what, name in (("cell line", key.cell_line), ("reporter", key.reporter)):
        if not plain(name) or not name.isprintable() or len(name) > 100 or "," in name:
            raise InputError(f"'{name}' cannot be the name of a {what}; use 1 to 100 printable characters, no comma")
    special = plain(key.reporter)
    return key._replace(reporter=special) if special in (ANY, AVERAGE) else key


def _concerns(key: Key, place: tuple[str, str], choice: Choice) -> bool:
    """Whether a model is one of those that a choice fuses."""
    chosen = not choice.reporters or any(same(name, key.reporter) for name in choice.reporters) or key.reporter == ANY
    return chosen and place[0] == key.object and same(place[1], key.cell_line)


def _free(root: Path, names: Iterable[str]) -> str:
    """A folder name that nothing in `root` has."""
    stem = "_".join(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:30] or "x" for name in names)
    taken = {path.name.casefold() for path in root.iterdir()}
    numbered = (f"{stem}_{n}" if n > 1 else stem for n in range(1, 10_000))
    return next(name for name in numbered if name.casefold() not in taken)
