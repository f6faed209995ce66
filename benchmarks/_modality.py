"""The modality analyser's confusion table on real images, as Markdown.

``python benchmarks/_modality.py [DATA]``: DATA is a folder of data sets, each with `images/` and `META.json`; of sets
in which kinds are mixed, `kinds.csv` or `sources.csv` tells them apart. Without it, the sets beside the checkout.

What an image shows decides its row: a stain in it, or a fluorophore, or neither. What the analyser can know decides
the expected class: an image of one channel (or of equal ones) is grayscale whatever it shows, as in the paper.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cellweave.core.errors import ReadError
from cellweave.core.image import Image
from cellweave.io import read_image
from cellweave.prep.modality import MODALITIES, modality

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STAINED = r"h&e|purple|pink|stained|histolog"
FLUORESCENT = r"fluo|dapi|hoechst|immuno|h2b|nuclei|membrane|confocal|wall|actin|channel"
Table = dict[tuple[str, str, str], Counter[str]]
"""Counts of what the analyser says, by set, what it shows, and expected class."""


def main() -> None:
    print(markdown(confusion(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)))


def confusion(data: Path, step: int = 1) -> Table:
    """Look at every image of every set, or at every `step`-th."""
    table: Table = {}
    for name, shown, image in labelled_images(data, step):
        expected = "grayscale" if image.n_channels == 1 else shown
        table.setdefault((name, shown, expected), Counter())[modality(image)] += 1
    return table


def labelled_images(data: Path, step: int) -> Iterator[tuple[str, str, Image]]:
    """Set, what it shows in the words of the analyser, and the image; the middle plane of stacks."""
    for meta in sorted(data.rglob("META.json")):
        folder = meta.parent
        words = str(json.loads(meta.read_text(encoding="utf-8"))["modality"])
        kinds = _kinds(folder)
        for file in sorted((folder / "images").iterdir())[::step]:
            try:
                image = read_image(file)
            except ReadError:  # a stack that does not name its axes
                image = read_image(file, axes="ZYX")
            image = image.plane(t=image.size("T") // 2, z=image.size("Z") // 2)
            kind = kinds.get(file.stem, "phase" if file.stem.startswith("phase") else words)
            yield folder.relative_to(data).as_posix(), shows(kind), image


def _kinds(folder: Path) -> dict[str, str]:
    """Words on single images by their stem, where the set has a list."""
    for file, name, words in (("kinds.csv", "name", "kind"), ("sources.csv", "file", "desc")):
        if (folder / file).is_file():
            with (folder / file).open(newline="", encoding="utf-8") as stream:
                rows = csv.DictReader(stream)
                return {re.sub(r"\.(png|tif)$", "", row[name]): row[words] for row in rows}
    return {}


def shows(words: str) -> str:
    """Brightfield for stains, fluorescence for fluorophores, else grayscale (phase contrast, gray brightfield)."""
    text = words.lower()
    if re.search(STAINED, text):
        return "brightfield"
    return "fluorescence" if re.search(FLUORESCENT, text) else "grayscale"


def accuracy(table: Table) -> float:
    """Share of the images whose class is the expected one."""
    right = sum(counts[expected] for (_, _, expected), counts in table.items())
    return right / sum(counts.total() for counts in table.values())


def markdown(table: Table) -> str:
    """A line a set and class, then the sums."""
    lines = [
        f"| set | shows | expected | {' | '.join(MODALITIES)} | right |",
        f"|---|---|---|{'--:|' * (len(MODALITIES) + 1)}",
    ]
    total: dict[str, Counter[str]] = {name: Counter() for name in MODALITIES}
    for (name, shown, expected), counts in sorted(table.items()):
        total[expected] += counts
        lines.append(_line(f"{name} | {shown}", expected, counts))
    lines += [_line("**all** | ", expected, counts) for expected, counts in total.items() if counts]
    n = sum(counts.total() for counts in table.values())
    return "\n".join([*lines, "", f"{100 * accuracy(table):.1f} % of {n} images are in the expected class."])


def _line(start: str, expected: str, counts: Counter[str]) -> str:
    told = " | ".join(str(counts[name]) for name in MODALITIES)
    return f"| {start} | {expected} | {told} | {counts[expected]} of {counts.total()} |"


if __name__ == "__main__":
    main()
