"""Compiled loops: the functions of the extension module `_kernels._kernels`. Each has a NumPy twin among the tests.

The module is loaded at the first use: training from prepared samples needs none of it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellweave._kernels._kernels import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        from cellweave._kernels import _kernels

        value = globals()[name] = getattr(_kernels, name)
        return value
