"""Pictures of what a model finds in images, and a page to leaf through them: for eyes, where there is no truth.

Nothing is learned or measured here. The pages hold the images themselves, so they belong to whoever owns the images.
"""

from __future__ import annotations

import argparse
import html
import time
from pathlib import Path

import numpy as np

from cellweave import Image, Segmenter, load_model, read_image, segment
from cellweave.core.errors import CellweaveError, ReadError
from cellweave.core.files import make_output_folder, write_atomically
from cellweave.core.progress import console_progress, report
from cellweave.io import write_overlay
from cellweave.train.pairs import pictures_below

REPOSITORY = Path(__file__).resolve().parents[1]
KINDS = ("unlabelled", "phase_points", "samples")
NOT_IMAGES = {"points", "label_studio"}


def main() -> None:
    arguments = argparse.ArgumentParser(prog="scripts/gallery", description="Look at what a model finds.")
    arguments.add_argument("folders", type=Path, nargs="*", help="folders of images; without any, the team's data")
    arguments.add_argument("--model", default="default", help="name or folder of a model")
    arguments.add_argument("--out", type=Path, default=REPOSITORY / "gallery")
    chosen = arguments.parse_args()
    folders = chosen.folders or [REPOSITORY.parent / "shared" / "data" / kind for kind in KINDS]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        arguments.error(f"there is no folder {missing[0]}; name folders of images")

    model, out = load_model(chosen.model), make_output_folder(chosen.out)
    files = [(folder, file) for folder in folders for file in images(folder)]
    rows = []
    for k, (folder, file) in enumerate(files):
        report("gallery", k, len(files), file.name)
        rows.append(page_entry(file, f"{folder.name}_{file.relative_to(folder)}".replace("/", "_"), model, out))
        write_atomically(out / "index.html", lambda path: path.write_text(page(model, rows), encoding="utf-8"))
    report("gallery", len(files), len(files))
    print(f"Open {out / 'index.html'}")


def images(folder: Path) -> list[Path]:
    """Images anywhere in a folder, but not its labels and points."""
    return [file for file in pictures_below(folder) if not NOT_IMAGES & set(file.relative_to(folder).parts)]


def page_entry(file: Path, name: str, model: Segmenter, out: Path) -> str:
    """Segment one image, write its overlay, and give its part of the page; what cannot be done is told there."""
    title = html.escape(name)
    try:
        image, chosen = flat(read(file))
        start = time.monotonic()
        found = segment(image, model, channels=chosen)
        seconds = time.monotonic() - start
    except CellweaveError as error:
        return f"<section><h2>{title}</h2><p class=bad>{html.escape(str(error))}</p></section>"
    picture = f"{name}.png"
    write_overlay(out / picture, image, found.labels)
    confidence = f"{np.median(found.confidence):.2f}" if found.count else "none"
    facts = (
        f"{image.height} x {image.width} px, channels {html.escape(chosen or 'auto')}: {found.count} cells, diameter "
        f"{found.diameter:.1f} px, median confidence {confidence}, {seconds:.1f} s"
    )
    return f"<section><h2>{title}</h2><p>{facts}</p><img loading=lazy src='{html.escape(picture)}'></section>"


def read(file: Path) -> Image:
    """The image; a stack whose file does not name its axes is taken for depths."""
    try:
        return read_image(file)
    except ReadError:
        return read_image(file, axes="ZYX")


def flat(image: Image) -> tuple[Image, str | None]:
    """The middle plane of a stack, the first time of a series, and two channels of many."""
    plane = image.plane(t=0 if image.size("T") > 1 else None, z=image.size("Z") // 2 if image.size("Z") > 1 else None)
    if plane.n_channels > 2 and not plane.color:
        return plane, "1,2"
    return plane, None


def page(model: Segmenter, rows: list[str]) -> str:
    """The page, in HTML."""
    style = "body{font:16px sans-serif;margin:2em}img{max-width:100%}section{margin-bottom:3em}.bad{color:#b00}"
    title = f"What the model {html.escape(model.name)} ({model.hash[:8]}) finds"
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style><h1>{title}</h1>" + "".join(
        rows
    )


if __name__ == "__main__":
    try:
        with console_progress():
            main()
    except CellweaveError as error:
        raise SystemExit(str(error)) from None
