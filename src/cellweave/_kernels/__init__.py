"""Compiled loops. The functions are those of the extension module `_kernels._kernels`; each has a NumPy twin in tests."""

from cellweave._kernels._kernels import *  # noqa: F403
