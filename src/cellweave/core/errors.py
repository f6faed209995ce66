"""The errors a user can meet. Each message names the file or argument, the fact, and the remedy."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class CellweaveError(Exception):
    """Base of every error that cellweave raises on purpose."""


class ReadError(CellweaveError):
    """A file cannot be read, or holds something other than what its name says."""


class WriteError(CellweaveError):
    """A result cannot be written: no permission, no space, or it would replace another file."""


class InputError(CellweaveError, ValueError):
    """An array, option or label image that the called function cannot work with."""


class ModelError(CellweaveError):
    """A model cannot be found, is incomplete, was altered, or does not fit the image."""


class MissingExtraError(CellweaveError, ImportError):
    """An optional package is not installed."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which extra of cellweave installs it.

    Raises
    ------
    MissingExtraError
        When `module` cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package '{module.split('.')[0]}', which is not installed; "
            f"install it with: pip install 'cellweave[{extra}]'"
        ) from error
