"""``cellweave models``: the user's models and model sets, listed, added, removed, and carried as archives."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellweave.core.errors import CellweaveError, InputError
from cellweave.models import Key, ModelSet, Training, list_models, load_segmenter, load_set
from cellweave.models.archive import add_to_registry, export_archive, import_archive, remove_from_registry
from cellweave.models.model_set import OBJECTS, is_model_set
from cellweave.models.registry import find_model, list_sets, user_folder
from cellweave.predict import load_counter

Place = tuple[str | None, str | None, str | None]
"""Object, cell line and reporter, as far as they were given."""


def show_list() -> None:
    """A table of all models and sets that have a name."""
    table = Table("name", "kind", "where")
    for entry in [*list_models(), *list_sets()]:
        table.add_row(*map(Text, (entry.name, entry.origin, str(entry.path))))
    Console().print(table)


def show_info(name: str) -> None:
    """The card of a model or a set."""
    typer.echo(load_set(name).card_text() if _is_set(name) else load_counter(name).card_text())


def add(
    source: str, *, name: str | None, into: str | None, place: Place, diameter: float | None, overwrite: bool
) -> None:
    """Add a model or set to the user's, or a model to a set, which is made where there is none."""
    if into is None:
        if any(place) or diameter:
            raise InputError(
                "--object, --cell-line, --reporter and --diameter are for a model of a set; say which with --set"
            )
        entry = add_to_registry(source, name=name, overwrite=overwrite)
        typer.echo(f"'{entry.name}' is added; it is in {entry.path}")
        return
    if name is not None:
        raise InputError("--name is for what is added by itself; a model of a set is named by what it is for")
    key = _key(place)
    model = load_segmenter(source)
    models = load_set(into) if _is_set(into) else ModelSet.create(_new_folder(into))
    models = models.add(model, **key._asdict(), training=Training(diameter), overwrite=overwrite)
    typer.echo(f"Model set '{models.name}' in {models.root} has the model for {models.find(key)} now")


def remove(name: str, place: Place) -> None:
    """Remove a model or set of the user, or a model of a set."""
    if not any(place):
        typer.echo(f"'{name}' is removed; it was in {remove_from_registry(name)}")
        return
    key = _key(place)
    models = load_set(name)
    known = models.find(key) or key
    models.remove(key)
    typer.echo(f"Model set '{models.name}' has no model for {known} any more")


def export(name: str, file: Path, *, overwrite: bool) -> None:
    """Pack a model or set into a zip file."""
    if file.exists() and not overwrite:
        raise CellweaveError(f"{file} is there already; give another name, or --overwrite")
    root = load_set(name).root if _is_set(name) else find_model(name)
    if not root.is_dir():
        raise CellweaveError(f"'{name}' is a weights file, {root}; add it to your models first: cellweave models add")
    files = export_archive(root, file)
    typer.echo(f"{file} holds the {len(files)} files of '{name}' ({file.stat().st_size / 1e6:.1f} MB)")


def take_in(file: Path, *, name: str | None, overwrite: bool) -> None:
    """Unpack what `export` made."""
    entry = import_archive(file, name=name, overwrite=overwrite)
    use = "--model-set" if is_model_set(entry.path) else "--model"
    typer.echo(f"'{entry.name}' is in {entry.path}; every file is as it was exported. Use it with {use} {entry.name}")


def _is_set(name: str) -> bool:
    return is_model_set(Path(name)) or any(entry.name == name for entry in list_sets())


def _key(place: Place) -> Key:
    missing = [o for o, value in zip(("--object", "--cell-line", "--reporter"), place, strict=True) if not value]
    if missing:
        raise InputError(
            f"a model of a set is for an object ({' or '.join(OBJECTS)}), a cell line and a reporter; give "
            f"{' and '.join(missing)}, too"
        )
    return Key(*(str(value) for value in place))


def _new_folder(name: str) -> Path:
    """A name goes to the user's models, a path stays one."""
    return user_folder() / name if Path(name).name == name else Path(name)
