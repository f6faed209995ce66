"""Prepared samples as a folder of files that NumPy alone can read, to train on another machine.

`pack` writes ``run.json`` (settings, net, representation) and of each part, for example training, ``training.json``
(the facts of the samples) and ``training-000.npz``, ...: their values one after the other as compressed float16,
rounded to 8 significant bits, each file below 60 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import compress

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.files import make_output_folder, write_atomically
from cellweave.core.progress import report
from cellweave.train.samples import Samples, facts_from

LARGEST_MB = 60
RUN = "run.json"
PARTS = ("training", "validation", "simulated")
BITS_DROPPED = 3
"""Of the 11 significant bits of a float16: what is left is finer than the noise, and compresses well."""


def pack(parts: dict[str, Samples], settings: dict[str, Any], folder: Path) -> list[Path]:
    """Write the samples of each part and the settings into `folder`; returns the shards. Older ones are removed."""
    make_output_folder(folder)
    for old in (*folder.glob("*-[0-9][0-9][0-9].npz"), *(folder / f"{part}.json" for part in PARTS)):
        old.unlink(missing_ok=True)
    files = [file for part, samples in parts.items() for file in _write(samples, folder, part)]
    text = json.dumps(settings, indent=2)
    write_atomically(folder / RUN, lambda path: path.write_text(text, encoding="utf-8"))
    return files


def unpack(folder: Path, part: str) -> Samples | None:
    """The samples of a part, of `PARTS`; None where there are none.

    Raises
    ------
    ReadError
        When a file is damaged or a shard is missing; names it.
    """
    file = folder / f"{part}.json"
    if not file.is_file():
        return None
    shards = sorted(folder.glob(f"{part}-[0-9][0-9][0-9].npz"))
    filled = 0
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        facts, shape = facts_from(told["samples"]), told["shape"]
        values = np.empty((shape[0], shape[1]), np.float16)
        for k, file in enumerate(shards):
            report("reading shards", k, len(shards), file.name)
            with np.load(file, allow_pickle=False) as content:
                some = content["values"]
                values[filled : filled + len(some)] = some
                filled += len(some)
    except Exception as error:  # a damaged archive makes zipfile and zlib raise nearly anything
        raise ReadError(f"{file} is damaged ({type(error).__name__}: {error}); copy it again") from error
    if filled != len(values):
        raise ReadError(f"{folder}: {part} has {filled} of {len(values)} pixels, so a shard is missing; copy it again")
    report("reading shards", len(shards), len(shards))
    return Samples(values, facts)


@dataclass(frozen=True)
class PackedStream:
    """Simulated samples that were drawn beforehand, over and over (see `source.Stream`): one block of all."""

    samples: Samples

    @property
    def size(self) -> int:
        """Samples in a block."""
        return len(self.samples)

    def block(self, k: int) -> Samples:
        """All of them."""
        return self.samples


def settings_of(folder: Path) -> dict[str, Any]:
    """What `pack` was given as settings.

    Raises
    ------
    InputError
        When the folder has none.
    """
    if not (folder / RUN).is_file():
        raise InputError(f"{folder} has no {RUN}; give the folder that 'cellweave train --prepare-only' wrote")
    settings: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    return settings


def _write(samples: Samples, folder: Path, part: str) -> Iterator[Path]:
    """The facts of all samples, and shards of as many values as fit, judged by their compressed size."""
    values, most = samples.values, LARGEST_MB * 1e6
    told = {"shape": values.shape, "samples": [asdict(fact) for fact in samples.facts]}
    write_atomically(folder / f"{part}.json", lambda path: path.write_text(json.dumps(told), encoding="utf-8"))
    step = max(1, int(0.2 * most / values[:1].nbytes))
    begin, size, number = 0, 0, 0
    for row in range(0, len(values), step):
        report("packing shards", row, len(values), part)
        packed = len(compress(_rounded(values[row : row + step]).tobytes(), 1))
        if size + packed > 0.95 * most:
            yield _write_shard(folder / f"{part}-{number:03d}.npz", values[begin:row])
            begin, size, number = row, 0, number + 1
        size += packed
    yield _write_shard(folder / f"{part}-{number:03d}.npz", values[begin:])
    report("packing shards", len(values), len(values), part)


def _write_shard(file: Path, values: NDArray[np.float16]) -> Path:
    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez_compressed(stream, values=_rounded(values))

    write_atomically(file, write)
    return file


def _rounded(values: NDArray[np.float16]) -> NDArray[np.float16]:
    """The nearest values with 8 significant bits; their zeros compress."""
    bits = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32)
    half, mask = 1 << (BITS_DROPPED - 1), ~((1 << BITS_DROPPED) - 1) & 0xFFFF
    return ((bits + half) & mask).astype(np.uint16).view(np.float16)
