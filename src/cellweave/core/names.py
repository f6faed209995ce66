"""Names of channels, reporters and cell lines, which people write in more than one way."""

from __future__ import annotations

from collections.abc import Sequence


def same(a: str, b: str) -> bool:
    """Whether two names of reporters, channels or cell lines are the same up to case and spaces."""
    return plain(a) == plain(b)


def plain(name: str) -> str:
    """What names that are the `same` share."""
    return "".join(name.casefold().split())


def some(names: Sequence[str]) -> str:
    """The first three of a list, and how many more there are, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
