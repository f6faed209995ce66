"""The scripts people run, and what README and docs say of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]
SHELL = ["scripts/demo", "scripts/test", "scripts/lint", "scripts/bench", "scripts/train-default", ".ci/run"]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((REPOSITORY / "docs").glob("*.md")))]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import record

    return record


@pytest.mark.parametrize("script", [*SHELL, "scripts/_env"])
def test_shell_syntax(script: str) -> None:
    for shell in ("sh", "bash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n", REPOSITORY / script], check=True)


@pytest.mark.parametrize("script", SHELL)
def test_scripts_can_be_run(script: str) -> None:
    path = REPOSITORY / script
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text().startswith("#!")


def test_ci_runs_lint_and_the_tests() -> None:
    text = (REPOSITORY / ".ci" / "run").read_text()
    assert "set -euo pipefail" in text
    assert text.splitlines()[-2:] == ["scripts/lint", "scripts/test"]


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_scripts_and_pages_that_exist(page: str) -> None:
    path = REPOSITORY / page
    text = path.read_text()
    for script in re.findall(r"\bscripts/[a-z-]+", text):
        assert (REPOSITORY / script).exists(), script
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_commands_and_options_that_exist(page: str) -> None:
    from typer.main import get_command

    from cellweave.cli.app import app

    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    for line in re.findall(r"^cellweave (.+?)(?:\s+#.*)?$", "".join(blocks), re.MULTILINE):
        command, words = get_command(app), line.split()
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


def test_readme_begins_with_a_picture_then_the_two_commands() -> None:
    text = (REPOSITORY / "README.md").read_text()
    places = [
        text.index(part) for part in ("![", "\nscripts/demo ", "\nscripts/test ", "\ncellweave segment ", "```python")
    ]
    assert places == sorted(places)
    assert (REPOSITORY / "docs/images/slide_overlay.png").stat().st_size < 900_000


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import tifffile

    from cellweave.models.registry import EMBEDDED

    if not (EMBEDDED / "default").is_dir():
        pytest.skip("the embedded model is not here yet")
    code = (REPOSITORY / "README.md").read_text().split("```python")[1].split("```")[0]
    image = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint16)
    image[20:40, 20:40] += 2000
    tifffile.imwrite(tmp_path / "a.tif", image)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a_labels.tif").exists()


def test_the_page_of_figures_is_made_from_the_results(record: ModuleType) -> None:
    text = record.PAGE.read_text(encoding="utf-8")
    assert record.page(text) == text, (
        "run scripts/bench, or: cd benchmarks && python -c 'import record; record.update()'"
    )


def test_results_have_every_field(record: ModuleType) -> None:
    fields = {*record.Row.__dataclass_fields__, "ok", "command", "machine", "date"}
    assert fields >= {"name", "value", "unit", "against", "at_least", "data", "split", "seed"}
    for file in record.RESULTS.glob("*.json"):
        for row in json.loads(file.read_text()):
            assert set(row) == fields
            assert row["command"].startswith(f"scripts/bench {file.stem} ")
            assert str(Path.home()) not in json.dumps(row)


def test_rows_of_a_measure_replace_only_its_own(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "PAGE", tmp_path / "figures.md")
    record.PAGE.write_text(f"before\n{record.BEGIN}\n{record.END}\nafter\n")
    values = iter([3.0, 5.0])

    def fast():
        """Counts."""
        yield record.Row("speed | times", next(values), "x", at_least=4)

    def small():
        """Weighs."""
        yield record.Row("memory", 3.5, "GiB", at_most=4, data="set", split="test")
        raise RuntimeError("the second row cannot be measured")

    toy = ModuleType("toy")
    toy.MEASURES = {"fast": fast, "small": small}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy", toy)

    assert record.run("toy") == 1
    assert [(r["name"], r["ok"]) for r in record.read("toy")] == [("speed | times", False), ("memory", True)]
    assert record.run("toy", ["fast"]) == 0
    assert [(r["value"], r["ok"]) for r in record.read("toy")] == [(5.0, True), (3.5, True)]
    page = record.PAGE.read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "| speed \\| times | 5 x | >= 4 | yes |" in page
    assert "| memory | 3.5 GiB | <= 4 | yes |  | set, test |" in page
    assert record.page(page) == page
    with pytest.raises(SystemExit, match="does not measure slow; choose from fast, small"):
        record.run("toy", ["slow"])


def test_a_value_that_is_no_number_is_not_ok(record: ModuleType) -> None:
    assert not record.Row("x", float("nan")).ok
    assert record.Row("x", 1.0).ok
    assert not record.Row("x", 1.0, at_most=0.5).ok


def test_constraints_pin_every_dependency() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(r.name): r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))
    }
    assert all(len(r.specifier) == 1 and next(iter(r.specifier)).operator == "==" for r in pinned.values())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [r for extra in project["project"]["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, wanted):
        exact = pinned[canonicalize_name(requirement.name)]
        version = next(iter(exact.specifier)).version
        assert Version(version) in requirement.specifier, requirement


def test_demo_samples_look_like_a_camera_s(tmp_path: Path) -> None:
    from cellweave import read_image

    subprocess.run([sys.executable, REPOSITORY / "scripts" / "_demo.py", tmp_path], check=True, capture_output=True)
    images = {p.name: read_image(p) for p in tmp_path.iterdir()}
    assert set(images) == {
        "slide_blue_stain.ome.tif",
        "nuclei.ome.tif",
        "nuclei_dense.ome.tif",
        "cells_2_channels.ome.tif",
    }
    assert images["slide_blue_stain.ome.tif"].pixel_size_um is None
    cells = images["cells_2_channels.ome.tif"]
    assert cells.channel_names == ("actin", "DAPI")
    assert cells.pixel_size_um == (0.5, 0.5)
    assert 250 < cells.read()[0].min() < cells.read()[0].max() < 65535
