"""The errors a user can meet."""

from __future__ import annotations

import pytest

from cellweave.core import errors
from cellweave.core.errors import CellweaveError, InputError, MissingExtraError, require


def test_all_errors_have_one_base() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    names = ["CellweaveError", "InputError", "MissingExtraError", "ModelError", "ReadError", "WriteError"]
    assert sorted(c.__name__ for c in classes) == names
    for found in classes:
        assert issubclass(found, CellweaveError)
        assert found.__doc__


def test_wrong_input_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="bad"):
        raise InputError("bad")


def test_an_optional_package_that_is_there_is_imported() -> None:
    assert require("json.decoder", extra="nothing").__name__ == "json.decoder"


def test_a_missing_package_names_the_extra_that_has_it() -> None:
    with pytest.raises(MissingExtraError, match=r"'no_such_package'.*pip install 'cellweave\[viewer\]'") as caught:
        require("no_such_package.part", extra="viewer")
    assert isinstance(caught.value, ImportError)
