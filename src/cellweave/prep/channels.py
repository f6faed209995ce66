"""Which channels of an image a net sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError
from cellweave.core.image import Image
from cellweave.core.names import plain

Policy = Literal["auto", "gray", "pair", "green-blue", "merged", "color"]
_ALLOWED = {"auto": (0,), "gray": (0, 1), "pair": (1, 2), "green-blue": (0,), "merged": (0, 2), "color": (0, 1, 2, 3)}
"""How many channels may be named with each policy."""
_ROWS = 64
_REMEDY = (
    "choose with channels=, or --channels on the command line: 'gray' (or 'gray:NAME'), "
    "'CYTOPLASM,NUCLEUS' (names or numbers from 1), 'green-blue', or 'merged:A,B'"
)


@dataclass(frozen=True)
class Channels:
    """A channel policy: image (C, Y, X) in, two planes (2, Y, X) out, or three by the policy `color`.

    ========== =====================================================================================
    policy     planes
    ========== =====================================================================================
    auto       one channel: as gray; red-green-blue: as green-blue, but as gray where all three are
               equal or only one has light (fluorescence saved in its colour), and as pair of the
               two where one has none: the nucleus is blue, else red;
               two channels: as pair, in their order; more: an error that lists them
    gray       the chosen (or only) channel, or the mean of red, green and blue; zero (Cellpose)
    pair       cytoplasm, nucleus (Cellpose)
    green-blue green, blue of a colour image; red is left out (challenge paper, Sec. 2.3.2)
    merged     each of two chosen channels takes the mean with the unselected ones (challenge paper,
               Eq. 5); the only channel of a gray image twice; green and blue unless chosen
    color      red, green and blue; a lone channel, or the only one with light, three times, else zero
               for one without; of others the first three, zero where there are only two (for nets
               with three inputs, such as that of the Cell Segmenter)
    ========== =====================================================================================

    Parameters
    ----------
    policy
        See the table.
    chosen
        Channel names (any case) or numbers from 1, as text; text that can be either is a number.
    """

    policy: Policy = "auto"
    chosen: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | Channels) -> Channels:
        """Read what users type: ``auto``, ``gray:DAPI``, ``2,1``, ``actin,dapi``, ``green-blue``, ``merged:2,3``."""
        if isinstance(text, Channels):
            return text
        policy, _, rest = text.strip().partition(":")
        policy = policy.lower()
        if policy not in _ALLOWED:
            policy, rest = "pair", text
        names = tuple(name.strip() for name in rest.split(",") if name.strip())
        if len(names) not in _ALLOWED[policy]:
            raise InputError(f"channels '{text}' name {len(names)} channels; {_REMEDY}")
        if policy == "pair" and len(names) == 1:
            policy = "gray"
        return cls(policy, names)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.policy + (":" + ",".join(self.chosen) if self.chosen else "")

    def resolve(self, image: Image) -> Channels:
        """The policy that `auto` stands for on this image; other policies are checked and returned.

        Raises
        ------
        InputError
            When the image does not have the channels, or has several and the policy does not say which.
        """
        n = image.n_channels
        if self.policy != "auto":
            if len({_index(image, name) for name in self.chosen}) < len(self.chosen):
                raise InputError(f"{_named(image)}; '{','.join(self.chosen)}' is the same channel twice; {_REMEDY}")
            if self.policy == "green-blue" and n < 3:
                raise InputError(f"{_named(image)}: 'green-blue' needs a colour image; {_REMEDY}")
            if self.policy == "gray" and not self.chosen and n > 1 and not image.color:
                raise InputError(f"{_named(image)}: 'gray' needs one of them; {_REMEDY}")
            if self.policy == "merged" and not self.chosen and n not in (1, 3):
                raise InputError(f"{_named(image)}: 'merged' needs two of them; {_REMEDY}")
            return self
        if image.color:
            return Channels("gray") if n < 3 else _color_policy(image)
        if n == 1:
            return Channels("gray")
        if n == 2:
            return Channels("pair", ("1", "2"))
        raise InputError(f"{_named(image)}: this model looks at two, and which ones cannot be known; {_REMEDY}")

    @property
    def planes(self) -> int:
        """How many planes come out."""
        return 3 if self.policy == "color" else 2

    def weights(self, image: Image) -> NDArray[np.float32]:
        """(2 or 3, C) float32: each plane is this weighted sum of the image's channels.

        Normalisation follows per channel before, so that a bright channel does not drown a dim one.
        """
        policy, n = self.resolve(image), image.n_channels
        weights = np.zeros((policy.planes, n), np.float32)
        if policy.policy == "gray" and not policy.chosen:
            weights[0] = 1.0 / n
            return weights
        chosen = [_index(image, name) for name in policy.chosen]
        if policy.policy in ("merged", "color") and (n == 1 or len(chosen) == 1):
            weights[:, chosen[0] if chosen else 0] = 1.0
            return weights
        if policy.policy == "color" and not chosen and image.color:
            lit = _lit(_sample(image))
            weights[lit, lit] = 1.0
            if len(lit) == 1:
                weights[:, lit[0]] = 1.0
            return weights
        chosen = chosen or ([0, 1, 2][:n] if policy.policy == "color" else [1, 2])
        for plane, channel in enumerate(chosen):
            weights[plane, channel] = 1.0
        if policy.policy == "merged":
            unselected = [c for c in range(n) if c not in chosen]
            weights[:, unselected] = 1.0
            weights /= n - 1
        return weights


def _color_policy(image: Image) -> Channels:
    """What `auto` does with red, green and blue."""
    pixels = _sample(image)
    if (pixels == pixels[:1]).all():
        return Channels("gray")
    lit = _lit(pixels)
    if len(lit) == 1:
        return Channels("gray", (str(lit[0] + 1),))
    if lit == [0, 1]:
        return Channels("pair", ("2", "1"))
    return Channels("pair", ("1", "3")) if lit == [0, 2] else Channels("green-blue")


def _sample(image: Image) -> NDArray[Any]:
    """Pixels on a grid of at most about 512 x 512."""
    step = max(1, max(image.height, image.width) // 512)
    rows = [image.read(slice(y, y + 1))[:, :, ::step] for y in range(0, image.height, step)]
    return np.concatenate(rows, axis=1)


def _lit(pixels: NDArray[Any]) -> list[int]:
    """Channels of a sample (C, Y, X) with light; all, where none has.

    One whose 1st to 99th percentile span less than a twentieth of the widest span has no light in it: normalised by
    itself, it would be noise at full contrast.
    """
    low, high = np.nanpercentile(pixels.reshape(len(pixels), -1).astype(np.float32), [1, 99], axis=1)
    lit: list[int] = np.flatnonzero(high - low > 0.05 * (high - low).max()).tolist()
    return lit or list(range(len(pixels)))


def _named(image: Image) -> str:
    names = ", ".join(f"{i + 1}" + (f" ({name})" if name else "") for i, name in enumerate(image.channel_names))
    return f"{image.source or 'image'} has {image.n_channels} channel{'s' * (image.n_channels > 1)}: {names}"


def _index(image: Image, name: str) -> int:
    if name.isdecimal() and 1 <= int(name) <= image.n_channels:
        return int(name) - 1
    names = [known.lower() for known in image.channel_names]
    if name.lower() in names:
        return names.index(name.lower())
    raise InputError(f"{_named(image)}; there is no channel '{name}'; {_REMEDY}")


def apply_weights(pixels: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted sums of channels, (C, Y, X) and (P, C) to (P, Y, X) float32; a weight of 0 keeps even NaN out."""
    planes = np.zeros((len(weights), *pixels.shape[1:]), np.float32)
    for plane, row in zip(planes, weights, strict=True):
        for channel in np.flatnonzero(row):
            plane += row[channel] * pixels[channel]
    return planes


def matching_channels(image: Image, names: Sequence[str], what: str) -> list[int]:
    """For each channel of an image, which of the channels with these names it is; an image need not have all of them.

    Where a channel has no name, here or there, their order counts.

    Raises
    ------
    InputError
        When there is another channel, or the numbers differ where their order counts; `what` says whose names they are.
    """
    here = image.channel_names
    known = [plain(name) for name in names]
    if all(here) and all(known):
        if {plain(name) for name in here} <= set(known):
            return [known.index(plain(name)) for name in here]
    elif len(here) == len(known):
        return list(range(len(here)))
    there = ", ".join(f"{number} ({name})" if name else f"{number}" for number, name in enumerate(names, 1))
    raise InputError(f"{_named(image)}; {what} is for {there}; use that of the same camera and acquisition")


def empty_channels(image: Image) -> set[int]:
    """Channels of a (C, Y, X) image in which no two finite pixels differ; rows are read until two are found."""
    empty = set(range(image.n_channels))
    seen = np.full(image.n_channels, np.nan)
    for start in range(0, image.height, _ROWS):
        pixels = image.read(slice(start, start + _ROWS))
        for channel in sorted(empty):
            values = pixels[channel][np.isfinite(pixels[channel])]
            if values.size:
                first = seen[channel] if np.isfinite(seen[channel]) else values[0]
                seen[channel] = first
                if (values != first).any():
                    empty.discard(channel)
        if not empty:
            break
    return empty
