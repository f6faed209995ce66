"""Compiled loops: the functions of the extension module `_kernels._kernels`. Each has a NumPy twin among the tests."""

from cellweave._kernels._kernels import *  # noqa: F403
