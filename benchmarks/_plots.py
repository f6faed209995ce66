"""Figures of the benchmarks: small SVG files beside the results, of lines and bars, never of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cellweave",  # the same figures give the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    "font.size": 9,
}
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""x and y by the name of the line."""


def curves(file: Path, panels: Mapping[str, Lines], x_label: str, y_label: str, *, log2: bool = False) -> None:
    """One panel of lines a title, side by side; `log2` for factors."""
    with mpl.rc_context(STYLE):
        figure, axes = _panels(len(panels))
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            draw_lines(axis, lines, log2=log2)
            axis.set(title=title, xlabel=x_label, ylim=(0, 1))
        axes[0].set_ylabel(y_label)
        _save(figure, file)


def bars_and_curves(file: Path, bars: Mapping[str, Mapping[str, float]], lines: Lines, labels: Sequence[str]) -> None:
    """Groups of bars, a colour a source (source: {group: value}), and beside them lines over factors.

    `labels` are those of both values, of the factor.
    """
    with mpl.rc_context(STYLE):
        figure, (left, right) = _panels(2, widths=(3, 2))
        groups = list(next(iter(bars.values())))
        for k, (source, values) in enumerate(bars.items()):
            height = 0.8 / len(bars)
            places = [g + (k - (len(bars) - 1) / 2) * height for g in range(len(groups))]
            left.barh(places, [values[g] for g in groups], height, label=source)
        left.set_yticks(range(len(groups)), groups)
        left.invert_yaxis()
        left.set(xlabel=labels[0], xlim=(0, 1))
        left.legend(loc="lower right", frameon=True)
        draw_lines(right, lines, log2=True)
        right.set(xlabel=labels[2], ylabel=labels[1], ylim=(0, 1))
        _save(figure, file)


def draw_lines(axis: Any, lines: Lines, *, log2: bool = False) -> None:
    for name, (x, y) in lines.items():
        axis.plot(x, y, marker="o", markersize=3, label=name)
    if log2:
        ticks = sorted({value for x, _ in lines.values() for value in x})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axis.legend()


def _panels(n: int, widths: Sequence[float] | None = None) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.2 * n, 3.4), layout="constrained")
    return figure, figure.subplots(1, n, squeeze=False, width_ratios=widths)[0]


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None})
