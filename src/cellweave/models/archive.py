"""The user's models and model sets: added, removed, and carried from place to place as one archive."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

from cellweave.core.errors import InputError, ModelError
from cellweave.core.files import atomic_path, make_output_folder, sha256
from cellweave.models.folder import (
    CARD,
    COUNTERS,
    FORMAT,
    SETTINGS,
    WEIGHTS,
    check_file,
    kind_of,
    read_settings,
    refusing,
)
from cellweave.models.model_set import SET, ModelSet, is_model_set
from cellweave.models.registry import ModelEntry, list_models, list_sets, load_model, user_folder

MANIFEST = "manifest.json"
MOST_FILES = 10_000
LARGEST_TEXT = 16 << 20
SPARE, RATIO = 64 << 20, 10
"""An archive of n bytes may hold `SPARE + RATIO * n` bytes: weights hardly get smaller when they are packed."""

_NAME = re.compile(r"\w[\w .+-]{0,99}")
_INSIDE = re.compile(
    rf"([A-Za-z0-9][A-Za-z0-9._-]{{0,120}}/){{0,2}}({'|'.join(map(re.escape, (SET, SETTINGS, CARD, WEIGHTS)))})"
)
"""What an archive may hold besides its manifest."""


def add_to_registry(source: str | os.PathLike[str], *, name: str | None = None, overwrite: bool = False) -> ModelEntry:
    """Copy a model, a model set or Cellpose weights to the user's models, where they are found by name.

    Parameters
    ----------
    source
        Folder, weights file, or the name of a model.
    name
        That it gets; without it, that of the folder or file.
    overwrite
        Replace what has this name.

    Raises
    ------
    ModelError
        When the source is damaged, or the name is taken.
    InputError
        When the name is impossible.
    """
    path = Path(source)
    target = _target(name or (path.name if path.is_dir() else path.stem), overwrite)
    if path.is_dir():
        _check(path)
    with atomic_path(target) as temporary:
        if path.is_dir():
            _copy(path, temporary)
        else:
            load_model(path).save(temporary)
        _check(temporary)
    return _entry(target)


def remove_from_registry(name: str) -> Path:
    """Delete a model or model set of the user. Returns where it was.

    Raises
    ------
    ModelError
        When the user has nothing of that name; lists what there is.
    """
    own = [entry for entry in [*list_models(), *list_sets()] if entry.path.parent == user_folder()]
    found = next((entry for entry in own if entry.name == name), None)
    if found is None:
        names = ", ".join(entry.name for entry in own) or "nothing"
        raise ModelError(f"'{name}' is not among your models, so it cannot be removed; there is {names}")
    aside = found.path.with_name(f".removed-{os.urandom(4).hex()}")
    os.replace(found.path, aside)  # it is gone whole, also where deleting its files is stopped
    shutil.rmtree(aside, ignore_errors=True)
    return found.path


def export_archive(source: str | os.PathLike[str], archive: str | os.PathLike[str]) -> list[str]:
    """Pack a folder of a model or model set into a zip file, with the SHA-256 of every file. Returns their names.

    Raises
    ------
    ModelError
        When a model is missing or damaged: nothing is packed that could not be used.
    """
    root = Path(source)
    _check(root)
    files = _files(root)
    facts = {name: {"sha256": sha256(root / name), "size": (root / name).stat().st_size} for name in files}
    manifest = {"format": FORMAT, "name": root.resolve().name, "files": facts}
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, indent=2), zipfile.ZIP_DEFLATED)
        for name in files:
            with (root / name).open("rb") as stream, pack.open(_info(name), "w", force_zip64=True) as packed:
                shutil.copyfileobj(stream, packed, 1 << 20)
    return files


def import_archive(archive: str | os.PathLike[str], *, name: str | None = None, overwrite: bool = False) -> ModelEntry:
    """Unpack what `export_archive` made to the user's models.

    Every file must be named in the manifest and have the hash that it says; links, paths that lead elsewhere, files of
    other names, and archives that grow out of proportion are refused. Then the models are read and checked. Until all
    of that is done, nothing has the name.

    Parameters
    ----------
    archive
        The zip file.
    name
        That it gets; without it, the one it was exported with.
    overwrite
        Replace what has this name.

    Raises
    ------
    ModelError
        For all of these; says which file.
    """
    source = Path(archive)
    try:
        with zipfile.ZipFile(source) as pack:
            infos = _contents(pack, source)
            manifest = _manifest(pack, infos.pop(MANIFEST, None), source)
            missing = sorted(manifest["files"].keys() ^ infos.keys())
            if missing:
                raise ModelError(f"{source}: manifest and files do not agree about {missing[0]}; export it again")
            target = _target(name or str(manifest["name"]), overwrite)
            with atomic_path(target) as temporary:
                for inside, info in infos.items():
                    _unpack(pack, info, temporary / inside, manifest["files"][inside], source)
                _check(temporary)
            return _entry(target)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise ModelError(f"{source} cannot be read as an archive of models ({error}); copy it again") from error


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # of 1980: the same models give the same archive
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _contents(pack: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    """Files of an archive by name, all of them harmless."""
    infos = [info for info in pack.infolist() if not info.is_dir()]
    seen: set[str] = set()
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.filename != MANIFEST and not _INSIDE.fullmatch(info.filename):
            why = "is no file of a model, or lies outside its folder"
        elif info.filename.casefold() in seen:
            why = "is there twice"
        elif kind not in (0, stat.S_IFREG):
            why = "is a link or another special file"
        elif info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = "is encrypted or packed in an unusual way"
        elif not info.filename.endswith(WEIGHTS) and info.file_size > LARGEST_TEXT:
            why = f"is larger than {LARGEST_TEXT >> 20} MiB"
        else:
            seen.add(info.filename.casefold())
            continue
        raise ModelError(f"{source}: {info.filename!r} {why}; this archive is not used, do not trust it")
    if len(infos) > MOST_FILES:
        raise ModelError(f"{source}: {len(infos)} files; an archive of models has {MOST_FILES} at most")
    size = sum(info.file_size for info in infos)
    if size > SPARE + RATIO * source.stat().st_size:
        raise ModelError(f"{source}: it would grow to {size / 1e9:.1f} GB, which no models do; do not trust it")
    return {info.filename: info for info in infos}


def _manifest(pack: zipfile.ZipFile, info: zipfile.ZipInfo | None, source: Path) -> dict[str, Any]:
    if info is None:
        raise ModelError(f"{source}: it has no {MANIFEST}; give a file that cellweave models export made")
    try:
        manifest = json.loads(pack.read(info))
        newer = manifest["format"] > FORMAT
        for fact in manifest["files"].values():
            if not (isinstance(fact["sha256"], str) and isinstance(fact["size"], int)):
                raise TypeError("a hash or a size is missing")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{source}: its {MANIFEST} is damaged ({error}); export it again") from error
    if newer:
        raise ModelError(f"{source} was made by a newer cellweave; update cellweave to use it")
    return dict(manifest)


def _unpack(pack: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, fact: dict[str, Any], source: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with pack.open(info) as packed, path.open("xb") as stream:
        while block := packed.read(1 << 20):
            size += len(block)
            if size > fact["size"]:
                break
            digest.update(block)
            stream.write(block)
    if size != fact["size"] or digest.hexdigest() != fact["sha256"]:
        raise ModelError(f"{source}: {info.filename} was altered or is damaged (its hash differs); copy it again")


def _files(root: Path) -> list[str]:
    """Files of a model or set, relative; what else lies in the folder does not belong to it."""
    if is_model_set(root):
        models = ModelSet.load(root)
        found, folders = [root / SET, root / CARD], [models.folder(key) for key in models.keys]
    else:
        branches = read_settings(root).get("branches", ())
        found, folders = [], [root, *(root / name for name in branches)]
    found += [folder / name for folder in folders for name in (SETTINGS, WEIGHTS, CARD)]
    return sorted(path.relative_to(root).as_posix() for path in found if path.is_file())


def _copy(source: Path, target: Path) -> None:
    for name in _files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _check(root: Path) -> None:
    """Read all of it; raises a `ModelError` for what is missing or altered."""
    if is_model_set(root):
        ModelSet.load(root).check()
    elif (root / SETTINGS).is_file() and kind_of(root) in COUNTERS:
        with refusing(root):
            if expected := read_settings(root).get("sha256"):
                check_file(root, WEIGHTS, expected)
    elif (root / SETTINGS).is_file():
        load_model(root)
    else:
        raise ModelError(f"{root} is no folder of a model or model set: it has neither {SETTINGS} nor {SET}")


def _target(name: str, overwrite: bool) -> Path:
    """Where something of this name goes."""
    if not _NAME.fullmatch(name) or name != name.strip(" ."):
        raise InputError(f"'{name}' cannot be the name of a model; use letters, digits, space, point, + - _")
    if any(entry.name == name for entry in list_models() if entry.path.parent != user_folder()):
        raise ModelError(f"the name '{name}' belongs to a model that is always there; give another with --name")
    target = make_output_folder(user_folder()) / name
    if target.exists() and not overwrite:
        raise ModelError(f"there is a model or model set '{name}' already; give --overwrite, or another --name")
    return target


def _entry(path: Path) -> ModelEntry:
    return next(entry for entry in [*list_models(), *list_sets()] if entry.path == path)
