"""``cellweave models``: add, list, info, remove; archives that are checked before anything is installed."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cell_segmenters import cell_segmenter
from cellweave.models import Choice, Key, ModelSet, Segmenter, load_model, load_set

Run = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models; none yet."""
    monkeypatch.setenv("CELLWEAVE_MODELS", str(tmp_path / "mine"))
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path / "mine"


@pytest.fixture
def zoo(tmp_path: Path, tiny_model: Segmenter) -> ModelSet:
    models = ModelSet.create(tmp_path / "work" / "zoo")
    for reporter in ("ERK", "AKT"):
        models = models.add(tiny_model, object="nuclei", cell_line="U2OS", reporter=reporter)
    return models.choose("nuclei", "U2OS", Choice(("AKT",)))


def test_a_model_is_added_listed_used_and_removed(run_cli: Run, mine: Path, model_folder: Path) -> None:
    done = run_cli("models", "add", model_folder)
    assert done.status == 0, done.err
    assert contents(mine / "tiny") == contents(model_folder)
    assert str(mine / "tiny") in run_cli("models", "list").out
    assert load_model("tiny").name == "tiny"
    assert run_cli("models", "add", "tiny", "--name", "other one").status == 0
    assert load_model("other one").hash == load_model("tiny").hash
    done = run_cli("models", "remove", "tiny", "--yes")
    assert done.status == 0, done.err
    assert [p.name for p in mine.iterdir()] == ["other one"]


def test_a_set_is_added_listed_and_shown(run_cli: Run, mine: Path, zoo: ModelSet) -> None:
    (zoo.root / "notes.txt").write_text("not of the set")
    assert run_cli("models", "add", zoo.root, "--name", "mek").status == 0
    assert load_set("mek").hash == zoo.hash
    assert not (mine / "mek" / "notes.txt").exists()
    [line] = [line for line in run_cli("models", "list").out.splitlines() if "mek" in line]
    assert "model set" in line
    done = run_cli("models", "info", "mek")
    assert done.status == 0, done.err
    assert "# Model set: mek" in done.out
    assert "Used: AKT, by flow fusion" in done.out


def test_a_set_grows_by_commands(run_cli: Run, mine: Path, model_folder: Path) -> None:
    what = ("--object", "nuclei", "--cell-line", "U2OS", "--reporter")
    done = run_cli("models", "add", model_folder, "--set", "mek", *what, "ERK")
    assert done.status == 0, done.err
    assert "has the model for nuclei, U2OS, ERK now" in done.out
    assert run_cli("models", "add", model_folder, "--set", "mek", *what, "AKT").status == 0
    assert run_cli("models", "add", model_folder, "--set", mine / "mek", *what, "akt").status == 1
    assert (
        run_cli(
            "models", "add", model_folder, "--set", mine / "mek", *what, "akt", "--overwrite", "--diameter", 18
        ).status
        == 0
    )
    assert load_set("mek").reporters("nuclei", "U2OS") == ("ERK", "AKT")
    assert load_set("mek").training(Key("nuclei", "U2OS", "AKT")).diameter == 18
    done = run_cli("models", "remove", "mek", *what, "erk", "--yes")
    assert done.status == 0, done.err
    assert "no model for nuclei, U2OS, ERK any more" in done.out
    assert load_set("mek").reporters("nuclei", "U2OS") == ("AKT",)


def test_nothing_is_removed_without_a_yes(
    run_cli: Run, mine: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli("models", "add", model_folder).status == 0
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_cli("models", "remove", "tiny").status == 130
    assert (mine / "tiny").is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "{model}", "--name", "default"], "always there"),
        (["add", "{model}", "--name", "../x"], "cannot be the name"),
        (["add", "{model}", "--name", ".x"], "cannot be the name"),
        (["add", "nothing"], "no model or model folder 'nothing'"),
        (["add", "{empty}"], "no folder of a model or model set"),
        (["add", "{model}", "--object", "nuclei"], "say which with --set"),
        (["add", "{model}", "--set", "s", "--object", "nuclei"], "give --cell-line and --reporter, too"),
        (["add", "{zoo}", "--set", "s", "--object", "nuclei", "--cell-line", "a", "--reporter", "b"], "is a model set"),
        (["remove", "{zoo}", "--yes"], "is not among your models"),
        (["remove", "default", "--yes"], "is not among your models"),
        (["export", "nothing", "{empty}/x.zip"], "no model or model folder"),
        (["import", "{empty}/none.zip"], "cannot be read as an archive"),
    ],
)
def test_what_cannot_be(
    run_cli: Run, mine: Path, model_folder: Path, zoo: ModelSet, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"model": model_folder, "zoo": zoo.root, "empty": tmp_path / "empty"}
    done = run_cli("models", *(argument.format(**places) for argument in arguments))
    assert done.status == 1
    assert said in done.err
    assert not mine.exists() or not list(mine.iterdir())
    zoo.check()


def test_a_damaged_model_is_not_added(run_cli: Run, mine: Path, zoo: ModelSet) -> None:
    weights = zoo.folder(Key("nuclei", "U2OS", "AKT")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"xx")
    for arguments in (("add", zoo.root), ("export", zoo.root, zoo.root.parent / "x.zip")):
        done = run_cli("models", *arguments)
        assert done.status == 1
        assert "altered or is damaged" in done.err
    assert not (zoo.root.parent / "x.zip").exists()
    assert not list(mine.iterdir())


def test_an_archive_carries_a_set(run_cli: Run, mine: Path, zoo: ModelSet, tmp_path: Path) -> None:
    (zoo.root / "notes.txt").write_text("not of the set")
    expected = {name: data for name, data in contents(zoo.root).items() if name != "notes.txt"}
    done = run_cli("models", "export", zoo.root, tmp_path / "zoo.zip")
    assert done.status == 0, done.err
    assert run_cli("models", "export", zoo.root, tmp_path / "zoo.zip").status == 1
    before = (tmp_path / "zoo.zip").read_bytes()
    assert run_cli("models", "export", zoo.root, tmp_path / "zoo.zip", "--overwrite").status == 0
    assert (tmp_path / "zoo.zip").read_bytes() == before
    done = run_cli("models", "import", tmp_path / "zoo.zip")
    assert done.status == 0, done.err
    assert "--model-set zoo" in done.out
    assert contents(mine / "zoo") == expected
    assert load_set("zoo").hash == zoo.hash
    done = run_cli("models", "import", tmp_path / "zoo.zip")
    assert done.status == 1
    assert "there is a model or model set 'zoo' already" in done.err
    assert run_cli("models", "import", tmp_path / "zoo.zip", "--name", "second").status == 0
    assert run_cli("models", "import", tmp_path / "zoo.zip", "--overwrite").status == 0
    assert contents(mine / "zoo") == contents(mine / "second") == expected


def test_an_archive_carries_a_model_of_several(run_cli: Run, mine: Path, tmp_path: Path) -> None:
    saved = cell_segmenter().save(tmp_path / "system")
    (tmp_path / "system" / "my notes").mkdir()
    (tmp_path / "system" / "my notes" / "README.md").write_text("not of the model")
    assert run_cli("models", "export", tmp_path / "system", tmp_path / "x.zip").status == 0
    done = run_cli("models", "import", tmp_path / "x.zip")
    assert done.status == 0, done.err
    assert load_model("system").hash == saved.hash
    assert not (mine / "system" / "my notes").exists()


# What must not come in


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None], sign: bool = True) -> Path:
    """The archive with other files in it, whose hashes the manifest tells if `sign`."""
    with zipfile.ZipFile(source) as pack:
        files = {name: pack.read(name) for name in pack.namelist()}
    change(files)
    if sign and "manifest.json" in files:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
            if name != "manifest.json"
        }
        files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, data in files.items():
            pack.writestr(name, data)
    return target


WEIGHTS = "nuclei_U2OS_AKT/model.safetensors"


def flip(files: dict[str, bytes], name: str = WEIGHTS) -> None:
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


@pytest.fixture
def refuse(run_cli: Run, mine: Path, zoo: ModelSet, tmp_path: Path) -> Callable[..., str]:
    """Imports a changed archive, which must fail and leave nothing; returns what was said."""
    assert run_cli("models", "export", zoo.root, tmp_path / "good.zip").status == 0

    def check(change: Callable[[dict[str, bytes]], None] | Path, *, sign: bool = True) -> str:
        bad = (
            change if isinstance(change, Path) else rewritten(tmp_path / "good.zip", tmp_path / "bad.zip", change, sign)
        )
        outside = {p for p in tmp_path.rglob("*") if mine not in p.parents and p != mine}
        done = run_cli("models", "import", bad)
        assert done.status == 1
        assert "Traceback" not in done.err
        assert not mine.exists() or not list(mine.iterdir())
        assert {p for p in tmp_path.rglob("*") if mine not in p.parents and p != mine} == outside
        return str(done.err)

    return check


@pytest.mark.parametrize("name", [WEIGHTS, "set.json", "README.md", "nuclei_U2OS_ERK/README.md"])
def test_one_changed_byte_is_found(refuse: Callable[..., str], name: str) -> None:
    assert f"{name} was altered or is damaged" in refuse(lambda files: flip(files, name), sign=False)


def test_weights_that_are_signed_anew_are_still_not_those_of_the_set(refuse: Callable[..., str]) -> None:
    assert "model.safetensors was altered or is damaged" in refuse(flip)


@pytest.mark.parametrize(
    "name",
    [
        *("../README.md", "/README.md", "a/../../README.md", "C:/README.md", "..\\README.md", "a/b/c/README.md"),
        *("run.py", "a/.hidden", "a/model.pkl", "./README.md", "a//README.md", "README.md/README.md\n"),
    ],
)
def test_files_that_do_not_belong_there(refuse: Callable[..., str], name: str) -> None:
    assert "is no file of a model" in refuse(lambda files: files.update({name: b"x"}))


def test_files_and_manifest_must_agree(refuse: Callable[..., str]) -> None:
    assert "do not agree about a/README.md" in refuse(lambda files: files.update({"a/README.md": b"x"}), sign=False)
    assert f"do not agree about {WEIGHTS}" in refuse(lambda files: files.pop(WEIGHTS) and None, sign=False)
    assert "is missing" in refuse(lambda files: files.pop(WEIGHTS) and None)
    assert "no manifest.json" in refuse(lambda files: files.pop("manifest.json") and None)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format": 1, "files": {"set.json": 3}}', b"[" * 100_000])
def test_a_damaged_manifest(refuse: Callable[..., str], text: bytes) -> None:
    assert "manifest.json is damaged" in refuse(lambda files: files.update({"manifest.json": text}), sign=False)


def test_of_a_newer_cellweave(refuse: Callable[..., str]) -> None:
    def newer(files: dict[str, bytes]) -> None:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | {"format": 99}).encode()

    assert "newer cellweave" in refuse(newer)


def test_a_set_without_its_json(refuse: Callable[..., str]) -> None:
    assert "no folder of a model" in refuse(lambda files: files.pop("set.json") and None)


def test_names_of_archives_lead_nowhere(refuse: Callable[..., str]) -> None:
    def renamed(files: dict[str, bytes]) -> None:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | {"name": "../../x"}).encode()

    assert "cannot be the name" in refuse(renamed)


def test_links_are_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "good.zip", tmp_path / "link.zip")
    info = zipfile.ZipInfo("a/README.md")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "a") as pack:
        pack.writestr(info, "/etc/passwd")
    assert "is a link" in refuse(tmp_path / "link.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["README.md", "NUCLEI_u2os_ERK/README.md"])
def test_a_file_that_is_there_twice(refuse: Callable[..., str], tmp_path: Path, name: str) -> None:
    shutil.copy(tmp_path / "good.zip", tmp_path / "twice.zip")
    with zipfile.ZipFile(tmp_path / "twice.zip", "a") as pack:
        pack.writestr(name, "other")
    assert "is there twice" in refuse(tmp_path / "twice.zip")


def test_bombs_are_refused(refuse: Callable[..., str]) -> None:
    zeros = bytes(80 << 20)
    assert "would grow to 0.1 GB" in refuse(lambda files: files.update({WEIGHTS: zeros}))
    assert "is larger than 16 MiB" in refuse(lambda files: files.update({"README.md": zeros[: 17 << 20]}))


def test_a_file_that_is_larger_than_it_says(refuse: Callable[..., str]) -> None:
    def understated(files: dict[str, bytes]) -> None:
        manifest = json.loads(files["manifest.json"])
        manifest["files"][WEIGHTS]["size"] = 10
        files["manifest.json"] = json.dumps(manifest).encode()

    assert "was altered or is damaged" in refuse(understated, sign=False)


def test_cut_archives(refuse: Callable[..., str], tmp_path: Path) -> None:
    whole = (tmp_path / "good.zip").read_bytes()
    for k, data in enumerate((whole[: len(whole) // 2], whole[:-30], b"PK\x03\x04", b"", whole.replace(b"PK", b"XX"))):
        (tmp_path / f"cut{k}.zip").write_bytes(data)
        assert "cannot be read as an archive of models" in refuse(tmp_path / f"cut{k}.zip")


def test_damage_within_the_packed_bytes(refuse: Callable[..., str], tmp_path: Path) -> None:
    data = bytearray((tmp_path / "good.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "good.zip") as pack:
        start = pack.getinfo(WEIGHTS).header_offset + 200
    for k in range(start, start + 40):
        data[k] ^= 0x5A
    (tmp_path / "hurt.zip").write_bytes(data)
    said = refuse(tmp_path / "hurt.zip")
    assert "cannot be read as an archive" in said or "was altered" in said


def test_a_full_disk_leaves_nothing(
    run_cli: Run, mine: Path, zoo: ModelSet, tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    assert run_cli("models", "export", zoo.root, tmp_path / "good.zip").status == 0
    with full_disk(5000):
        done = run_cli("models", "import", tmp_path / "good.zip")
        assert done.status == 1
        assert "cannot write" in done.err
        assert run_cli("models", "export", zoo.root, tmp_path / "other.zip").status == 1
    assert not list(mine.iterdir())
    assert not (tmp_path / "other.zip").exists()
