"""The command line: one function a command, the same parameters as the Python functions."""

from cellweave.cli.app import main

__all__ = ["main"]
