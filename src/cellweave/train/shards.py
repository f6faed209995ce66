"""Prepared samples as a folder of files that NumPy alone can read, to train on another machine.

`pack` writes ``run.json`` (settings, net, representation) and ``training-000.npz``, ...: each below 60 MB, with the
facts of its samples as JSON and their values as compressed float16, rounded to 8 significant bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.files import make_output_folder, write_atomically
from cellweave.core.progress import report
from cellweave.train.samples import Samples, facts_from, joined

LARGEST_MB = 60
RUN = "run.json"
BITS_DROPPED = 3
"""Of the 11 significant bits of a float16: what is left is finer than the noise, and compresses well."""


def pack(parts: dict[str, Samples], settings: dict[str, Any], folder: Path) -> list[Path]:
    """Write the samples of each part and the settings into `folder`; returns the shards. Older ones are removed."""
    make_output_folder(folder)
    for old in folder.glob("*-[0-9][0-9][0-9].npz"):
        old.unlink()
    files = [file for part, samples in parts.items() for file in _write(samples, folder, part)]
    text = json.dumps(settings, indent=2)
    write_atomically(folder / RUN, lambda path: path.write_text(text, encoding="utf-8"))
    return files


def unpack(folder: Path, part: str) -> Samples | None:
    """The samples of a part (training, validation, simulated); None where there are none.

    Raises
    ------
    ReadError
        When a shard is damaged; names it.
    """
    files = sorted(folder.glob(f"{part}-[0-9][0-9][0-9].npz"))
    parts = []
    for k, file in enumerate(files):
        report("reading shards", k, len(files), file.name)
        try:
            with np.load(file, allow_pickle=False) as content:
                facts = facts_from(json.loads(bytes(content["facts"]).decode()))
                parts.append(Samples(content["values"], facts))
        except Exception as error:  # a damaged archive makes zipfile and zlib raise nearly anything
            raise ReadError(f"{file} is damaged ({type(error).__name__}: {error}); copy it again") from error
    return joined(parts) if parts else None


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
    """Shards of as many samples as fit, judged by their compressed size."""
    from zlib import compress

    starts, begin, size, number = samples.starts, 0, 0, 0
    for k in range(len(samples) + 1):
        report("packing shards", k, len(samples), part)
        if k < len(samples):
            packed = len(compress(_rounded(samples.values[starts[k] : starts[k + 1]]).tobytes(), 1))
            if size + packed < 0.95 * LARGEST_MB * 1e6 or begin == k:
                size += packed
                continue
        file = folder / f"{part}-{number:03d}.npz"
        values = _rounded(samples.values[starts[begin] : starts[k]])
        text = json.dumps([asdict(fact) for fact in samples.facts[begin:k]])
        arrays = {"values": values, "facts": np.frombuffer(text.encode(), np.uint8)}
        write_atomically(file, lambda path, arrays=arrays: _savez(path, arrays))  # type: ignore[misc]
        yield file
        begin, number = k, number + 1
        size = packed if k < len(samples) else 0


def _savez(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _rounded(values: NDArray[np.float16]) -> NDArray[np.float16]:
    """The nearest values with 8 significant bits; their zeros compress."""
    bits = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32)
    half, mask = 1 << (BITS_DROPPED - 1), ~((1 << BITS_DROPPED) - 1) & 0xFFFF
    return ((bits + half) & mask).astype(np.uint16).view(np.float16)
