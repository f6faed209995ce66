"""Files are written whole or not at all; folders are checked before work starts."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cellweave.core.errors import WriteError


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; choose another folder"
    return str(error)


def remove(path: Path) -> None:
    """Delete a file or a folder; nothing happens when there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace_folder(target: Path, temporary: Path) -> None:
    """Rename `temporary` to `target`; the folder there stays until the new one has its name."""
    aside = temporary.with_name(f"{temporary.name}.old")
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.replace(aside, target)
        raise
    remove(aside)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on any failure.

    The temporary name ends like `path` does, so that writers which look at the suffix work. The path
    yielded does not exist yet: a file or a folder may be made there.

    Raises
    ------
    WriteError
        When the operating system refuses (full disk, no permission); names `path`.
    """
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.part-{target.name}")
    try:
        yield temporary
        if target.is_dir() and temporary.is_dir():
            _replace_folder(target, temporary)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise WriteError(f"cannot write {target}: {_reason(error)}") from error
    finally:
        if temporary.exists():
            remove(temporary)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)` and move what it wrote to `path`; see `atomic_path`."""
    with atomic_path(path) as temporary:
        write(temporary)


def make_output_folder(path: str | os.PathLike[str]) -> Path:
    """Create `path` with its parents and prove that files can be written in it.

    Raises
    ------
    WriteError
        When the folder cannot be made or written; names the folder.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"cellweave")
    except OSError as error:
        raise WriteError(f"cannot write to the folder {folder}: {_reason(error)}") from error
    return folder


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's bytes; of a folder (OME-Zarr), of its files' names and bytes in sorted order."""
    root = Path(path)
    digest = hashlib.sha256()
    for file in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
        if file != root:
            digest.update(file.relative_to(root).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
