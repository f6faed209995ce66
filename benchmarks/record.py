"""The record of figures: rows in benchmarks/results/NAME.json, and the tables of docs/figures.md made from them.

A benchmark is a module here with `MEASURES`, a dict of functions by name. Each yields `Row`s. Its name is that of the
module, with dashes.
"""

from __future__ import annotations

import ast
import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "figures.md"
BEGIN, END = "<!-- made by scripts/bench: begin -->", "<!-- made by scripts/bench: end -->"
NOTHING = "Nothing has been measured yet.\n\n"

Record = dict[str, Any]
Measures = dict[str, Callable[[], Iterator["Row"]]]


@dataclass(frozen=True)
class Row:
    """One figure.

    Parameters
    ----------
    name
        What was measured.
    value, unit
        How much; the unit may be empty.
    against
        What it is compared with: a package and version, a paper, and their figures.
    at_least, at_most
        What is wanted, if anything; `ok` tells whether it was reached. A value that is no number is not ok.
    data, split, seed
        What it was measured on; no data: made from the seed.
    """

    name: str
    value: float
    unit: str = ""
    against: str = ""
    at_least: float | None = None
    at_most: float | None = None
    data: str = ""
    split: str = ""
    seed: int = 0

    @property
    def ok(self) -> bool:
        """Whether the value is a number, within the limits."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return math.isfinite(self.value) and low <= self.value <= high


def benchmarks() -> dict[str, str]:
    """First line of the description of every benchmark, by name."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        targets = [t for node in tree.body if isinstance(node, ast.AnnAssign | ast.Assign) for t in _targets(node)]
        if "MEASURES" in targets:
            found[file.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _targets(node: ast.AnnAssign | ast.Assign) -> list[str]:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return [t.id for t in targets if isinstance(t, ast.Name)]


def run(name: str, wanted: Sequence[str] = ()) -> int:
    """Run a benchmark, or some of its measures; every row is on disk as soon as it is known. Returns how many failed.

    Rows of measures that are not run stay as they are. A measure that raises is reported, and the next one begins.
    """
    measures: Measures = import_module(name.replace("-", "_")).MEASURES
    unknown = [w for w in wanted if w not in measures]
    if unknown:
        sys.exit(f"{name} does not measure {', '.join(unknown)}; choose from {', '.join(measures)}")
    failed = 0
    for measure in wanted or measures:
        command = f"scripts/bench {name} {measure}"
        print(f"{measure}: {(measures[measure].__doc__ or '').strip()}", flush=True)
        start = time.monotonic()
        rows: list[Record] = []
        try:
            for row in measures[measure]():
                rows.append(_record(row, command))
                write(name, rows, list(measures))
                print("  " + _line(rows[-1]), flush=True)
        except Exception:  # noqa: BLE001 - one figure that cannot be measured must not hide the others
            failed += 1
            print(traceback.format_exc(), file=sys.stderr, flush=True)
        print(f"  took {time.monotonic() - start:.0f} s", flush=True)
    return failed


def _record(row: Row, command: str) -> Record:
    value = float(row.value) if math.isfinite(row.value) else None
    now = datetime.now(UTC).date().isoformat()
    return asdict(row) | {
        "value": value,
        "ok": row.ok,
        "command": command,
        "machine": machine(),
        "date": now,
    }


def write(name: str, rows: Sequence[Record], order: Sequence[str]) -> None:
    """Put `rows`, all of one command, in the place of that command's earlier rows, and make the page again.

    `order` is that of the measures; rows of measures that are no longer in it are dropped.
    """
    commands = [f"scripts/bench {name} {measure}" for measure in order]
    others = [r for r in read(name) if r["command"] != rows[0]["command"] and r["command"] in commands]
    merged = sorted([*others, *rows], key=lambda r: commands.index(r["command"]))
    RESULTS.mkdir(exist_ok=True)
    _replace(RESULTS / f"{name}.json", json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    update()


def update() -> None:
    """Make the tables of the page again."""
    _replace(PAGE, page(PAGE.read_text(encoding="utf-8")))


def read(name: str) -> list[Record]:
    """Rows of the last run; none where there was no run."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def page(text: str) -> str:
    """The page with its tables made from the results on disk."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    tables = "".join(table(file.stem) for file in sorted(RESULTS.glob("*.json")))
    return f"{before}{BEGIN}\n\n{tables or NOTHING}{END}{after}"


def table(name: str) -> str:
    """The rows of a benchmark as Markdown."""
    rows = read(name)
    machines = list(dict.fromkeys(r["machine"] for r in rows))
    lines = [
        f"### {name}",
        "",
        "| what | value | wanted | reached | against | data | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mark = f" ({machines.index(row['machine']) + 1})" if len(machines) > 1 else ""
        reached = "" if _wanted(row) == "" else "yes" if row["ok"] else "**no**"
        data = ", ".join(part for part in (row["data"], row["split"]) if part) or f"made, seed {row['seed']}"
        cells = [row["name"], _value(row), _wanted(row), reached, row["against"], data, row["date"] + mark]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [
        "",
        "Measured on " + "; ".join(f"({k}) {m}" if len(machines) > 1 else m for k, m in enumerate(machines, 1)) + ".",
    ]
    return "\n".join(lines) + "\n\n"


def _value(row: Record) -> str:
    return "none" if row["value"] is None else f"{_number(row['value'])} {row['unit']}".strip()


def _wanted(row: Record) -> str:
    limits = ((">=", row["at_least"]), ("<=", row["at_most"]))
    return " and ".join(f"{sign} {_number(limit)}" for sign, limit in limits if limit is not None)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(row: Record) -> str:
    wanted = _wanted(row)
    verdict = f" (wanted {wanted}: {'reached' if row['ok'] else 'NOT REACHED'})" if wanted else ""
    return f"{row['name']}: {_value(row)}{verdict}" + (f"; {row['against']}" if row["against"] else "")


def machine() -> str:
    """What the figures were measured on, without names of people, hosts or folders."""
    import torch

    parts = [_processor(), f"{os.cpu_count()} cores", f"{_memory_gib():.0f} GiB", platform.system()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts) + f"; Python {platform.python_version()}, torch {torch.__version__}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    if platform.system() == "Darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return math.nan
