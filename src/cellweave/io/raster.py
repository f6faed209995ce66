"""PNG, JPEG and BMP through Pillow; PNG of 16 bits a sample through imagecodecs, which keeps all bits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellweave.core.errors import InputError, ReadError
from cellweave.core.files import write_atomically
from cellweave.core.labels import Labels
from cellweave.io.pixels import Found, from_array, size_from_resolution

NAME = "PNG, JPEG or BMP"
SUFFIXES: tuple[str, ...] = (".png", ".bmp", ".jpg", ".jpeg")

_PNG, _JPEG, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
_PNG_GRAY, _PNG_PALETTE = 0, 3
_UM_PER_INCH = 25400.0


def recognises(path: Path, head: bytes) -> bool:
    return head.startswith((_PNG, _JPEG, _BMP))


def find(path: Path) -> Found:
    """The whole image, read at once: these formats have no parts that could be read alone."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    depth, kind = _png_header(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            picture = Pillow.open(path, formats=("PNG", "JPEG", "BMP"))
    except Pillow.DecompressionBombError as error:
        if kind in (None, _PNG_PALETTE):
            raise ReadError(f"{path}: too large for this format ({error}); save it as a tiled TIFF") from error
        return _found(_decode_png(path), {"format": "PNG", "bits": str(depth)})
    with picture:
        facts = {"format": picture.format or "", "bits": str(depth or 8)}
        resolution = tuple(float(n) for n in picture.info.get("dpi", (0, 0)))
        size = size_from_resolution(resolution[1] / _UM_PER_INCH, resolution[0] / _UM_PER_INCH, facts)
        if depth == 16:
            return _found(_decode_png(path), facts, size)
        upright = ImageOps.exif_transpose(picture)
        palette = None
        if upright.mode in ("P", "PA"):
            colours = np.array(upright.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette = colours[:, 0] if (colours == colours[:, :1]).all() else colours
            if upright.mode == "PA":
                upright = upright.getchannel("P")
        elif upright.mode not in ("1", "L", "LA", "RGB", "RGBA"):
            upright = upright.convert("RGB")
        pixels: NDArray[Any] = np.asarray(upright)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    elif kind == _PNG_GRAY and depth in (2, 4):
        pixels = pixels // (255 // (2**depth - 1))  # Pillow stretches to 255; the file holds 0 to 3, or 0 to 15
    return _found(pixels, facts, size, palette)


def _png_header(path: Path) -> tuple[int | None, int | None]:
    """Bits a sample and colour type of a PNG (its IHDR chunk); None for the other formats."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return (head[24], head[25]) if head.startswith(_PNG) and len(head) == 26 else (None, None)


def _decode_png(path: Path) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


def _found(
    pixels: NDArray[Any],
    facts: dict[str, str],
    pixel_size_um: tuple[float, float] | None = None,
    palette: NDArray[Any] | None = None,
) -> Found:
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    return from_array(
        pixels,
        "YXS"[: pixels.ndim],
        pixel_size_um=pixel_size_um,
        photo=samples >= 3,
        alpha=samples in (2, 4),
        palette=palette,
        facts=facts,
    )


def write_labels(path: Path, labels: Labels, pixel_size_um: tuple[float, float] | None) -> None:
    """PNG of 16 bits; the pixel size goes into the resolution chunk.

    Raises
    ------
    InputError
        For ids over 65535, which PNG cannot hold.
    """
    from PIL import Image as Pillow

    if labels.size and labels.max() > np.iinfo(np.uint16).max:
        raise InputError(f"{path}: PNG holds ids up to 65535, these go up to {labels.max()}; write a .tif instead")
    options: dict[str, Any] = {}
    if pixel_size_um is not None:
        options["dpi"] = (_UM_PER_INCH / pixel_size_um[1], _UM_PER_INCH / pixel_size_um[0])
    picture = Pillow.fromarray(labels.astype(np.uint16))
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG", **options))


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Save (Y, X, 3) as PNG."""
    from PIL import Image as Pillow

    write_atomically(path, lambda temporary: Pillow.fromarray(pixels).save(temporary, format="PNG", compress_level=4))
