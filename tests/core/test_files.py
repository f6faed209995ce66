"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from cellweave.core.errors import WriteError
from cellweave.core.files import atomic_path, make_output_folder, sha256, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
        assert temporary.suffix == ".txt"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WriteError, match=r"a\.txt.*disk is full"):
        write_atomically(tmp_path / "a.txt", write)
    assert names(tmp_path) == []


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "old").touch()
    with atomic_path(tmp_path / "a.zarr") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(tmp_path / "a.zarr") == ["new"]
    assert names(tmp_path) == ["a.zarr"]


def test_a_failed_folder_is_removed(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "half").touch()
        raise OSError(errno.EACCES, "denied")

    with pytest.raises(WriteError, match="no permission"):
        write_atomically(tmp_path / "a.zarr", write)
    assert names(tmp_path) == []


def test_no_folder_to_write_in(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="absent"):
        write_atomically(tmp_path / "absent" / "a.txt", lambda temporary: temporary.write_text("x"))


def test_make_output_folder_makes_parents_and_leaves_no_probe(tmp_path: Path) -> None:
    folder = make_output_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert names(folder) == []


def test_an_output_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(WriteError, match="cannot write to the folder"):
        make_output_folder(tmp_path / "a")


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"cells" * 500_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"cells" * 500_000).hexdigest()


def test_sha256_of_a_folder_changes_with_names_and_bytes(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, bytes]) -> str:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return sha256(tmp_path / name)

    first = folder("a", {"x": b"1", "s/y": b"2"})
    assert folder("b", {"s/y": b"2", "x": b"1"}) == first
    assert folder("c", {"x": b"1", "s/z": b"2"}) != first
    assert folder("d", {"x": b"1", "s/y": b"3"}) != first
