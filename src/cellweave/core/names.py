"""Names of channels, reporters and cell lines, which people write in more than one way."""

from __future__ import annotations


def same(a: str, b: str) -> bool:
    """Whether two names of reporters, channels or cell lines are the same up to case and spaces."""
    return plain(a) == plain(b)


def plain(name: str) -> str:
    """What names that are the `same` share."""
    return "".join(name.casefold().split())
