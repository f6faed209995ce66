"""TIFF files of other programs and settings, read whole and by region."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from cellweave.core.errors import InputError, ReadError
from cellweave.io import read_image
from cellweave.io import tiff as reader

RNG = np.random.default_rng(0)
STACK: NDArray[np.uint16] = RNG.integers(0, 60_000, (3, 37, 53)).astype(np.uint16)
CYX: dict[str, Any] = {"metadata": {"axes": "CYX"}, "photometric": "minisblack"}

WAYS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
    "ome": {"ome": True, "metadata": {"axes": "CYX"}},
    "ome-tiled": {"ome": True, "metadata": {"axes": "CYX"}, "tile": (16, 32), "compression": "zlib"},
    "plain": CYX,
    "one-strip-zlib": CYX | {"compression": "zlib", "rowsperstrip": 37},
    "strips-lzw": CYX | {"compression": "lzw", "rowsperstrip": 5},
    "strips-packbits": CYX | {"compression": "packbits", "rowsperstrip": 4},
    "strips-raw": CYX | {"rowsperstrip": 4},
    "tiles-raw": CYX | {"tile": (16, 16)},
    "tiles-predictor": CYX | {"tile": (16, 48), "compression": "zlib", "predictor": True},
    "tiles-zstd": CYX | {"tile": (32, 16), "compression": "zstd"},
    "tiles-lzma": CYX | {"tile": (16, 16), "compression": "lzma"},
    "tiles-jpeg2000": CYX | {"tile": (16, 16), "compression": "jpeg2000", "compressionargs": {"level": 0}},
    "tiles-jpegxl": CYX | {"tile": (16, 16), "compression": "jpegxl", "compressionargs": {"lossless": True}},
    "big-endian": CYX | {"byteorder": ">"},
    "big-endian-tiles": CYX | {"byteorder": ">", "tile": (16, 16), "compression": "zlib", "predictor": True},
    "bigtiff": CYX | {"bigtiff": True, "tile": (16, 16)},
    "planar": {"photometric": "minisblack", "planarconfig": "separate", "metadata": None},
    "planar-tiles": {"photometric": "minisblack", "planarconfig": "separate", "metadata": None, "tile": (16, 16)},
}


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file a way of writing the same stack."""
    folder = tmp_path_factory.mktemp("tiff")
    for name, options in WAYS.items():
        tifffile.imwrite(folder / f"{name}.tif", STACK, **options)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_gives_the_same_pixels(stacks: Path, way: str) -> None:
    image = read_image(stacks / f"{way}.tif")
    assert (image.axes, image.shape, image.dtype, image.color) == ("CYX", STACK.shape, np.uint16, False)
    assert np.array_equal(image.read(), STACK)
    assert image.source == str(stacks / f"{way}.tif")


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_region_is_a_crop_of_the_whole(stacks: Path, way: str, data: st.DataObject) -> None:
    image = read_image(stacks / f"{way}.tif")
    key: list[int | slice] = []
    for n in STACK.shape:
        start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        key.append(data.draw(st.sampled_from([slice(start, stop), slice(None), n - 1, -n])))
    part = image.data[tuple(key)]
    assert part.dtype == np.uint16
    assert np.array_equal(part, STACK[tuple(key)])


@pytest.mark.parametrize("axes", ["TZCYX", "ZCYX", "TYX", "ZYX"])
@pytest.mark.parametrize("form", ["imagej", "ome"])
def test_stacks_keep_their_axes(tmp_path: Path, form: str, axes: str) -> None:
    sizes = {"T": 2, "Z": 3, "C": 4, "Y": 20, "X": 30}
    array = RNG.integers(0, 255, [sizes[a] for a in axes]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": axes}, **{form: True})
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "".join(a for a in "TCZYX" if a in axes or a == "C")
    expected = array if "C" in axes else np.expand_dims(array, axes.index("Y") - 1 if axes[0] != "T" else 1)
    order = list(axes) if "C" in axes else list(image.axes)
    assert np.array_equal(np.asarray(image), expected.transpose([order.index(a) for a in image.axes]))


def test_ome_channel_names_and_pixel_size(tmp_path: Path) -> None:
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "GFP", "Cy5"]},
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.65,
        "PhysicalSizeYUnit": "µm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata=metadata, photometric="minisblack")
    image = read_image(tmp_path / "a.ome.tif")
    assert image.channel_names == ("DAPI", "GFP", "Cy5")
    assert image.pixel_size_um == pytest.approx((0.65, 0.325))
    assert image.facts["format"] == "OME-TIFF"


@pytest.mark.parametrize(("unit", "um"), [("pixel", None), ("reference frame", None), ("mm", 1000.0), ("Å", 1e-4)])
def test_ome_units(tmp_path: Path, unit: str, um: float | None) -> None:
    sizes = {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": unit, "PhysicalSizeY": 1.0, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK[0], metadata=sizes)
    assert read_image(tmp_path / "a.ome.tif").pixel_size_um == (None if um is None else pytest.approx((um, um)))


@pytest.mark.parametrize(
    ("unit", "um"),
    [("micron", 1.0), ("\\u00B5m", 1.0), ("um", 1.0), ("mm", 1000.0), ("inch", 25400.0), ("pixel", None)],
)
def test_imagej_units(tmp_path: Path, unit: str, um: float | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], imagej=True, resolution=(4, 2), metadata={"unit": unit})
    size = read_image(tmp_path / "a.tif").pixel_size_um
    assert size == (None if um is None else pytest.approx((um / 2, um / 4)))


def test_imagej_slice_labels_name_the_channels(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Labels": ["DAPI", "GFP", "Cy5"]}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata)
    assert read_image(tmp_path / "a.tif").channel_names == ("DAPI", "GFP", "Cy5")
    metadata = {"axes": "ZYX", "Labels": ["a", "b", "c"]}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata)
    assert read_image(tmp_path / "a.tif").channel_names == ("",)


def test_resolution_tags(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], resolution=(40_000, 20_000), resolutionunit="CENTIMETER")
    assert read_image(tmp_path / "a.tif").pixel_size_um == pytest.approx((0.5, 0.25))
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], resolution=(50_800, 50_800), resolutionunit="INCH")
    assert read_image(tmp_path / "a.tif").pixel_size_um == pytest.approx((0.5, 0.5))


def test_a_print_resolution_is_told_and_not_used(tmp_path: Path) -> None:
    Pillow.fromarray(STACK[0]).save(tmp_path / "a.tif", dpi=(300, 300))
    image = read_image(tmp_path / "a.tif")
    assert image.pixel_size_um is None
    assert image.facts["resolution"].startswith("300 dpi")


def test_plain_files_tell_no_pixel_size(stacks: Path) -> None:
    assert read_image(stacks / "plain.tif").pixel_size_um is None
    assert read_image(stacks / "imagej.tif").pixel_size_um is None


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_photographs(tmp_path: Path, options: dict[str, Any], planar: bool, dtype: type) -> None:
    array = RNG.integers(0, 255, (37, 53, 3)).astype(dtype)
    written = array.transpose(2, 0, 1) if planar else array
    config = "separate" if planar else "contig"
    tifffile.imwrite(tmp_path / "a.tif", written, photometric="rgb", planarconfig=config, **options)
    image = read_image(tmp_path / "a.tif")
    assert image.color
    assert image.channel_names == ("red", "green", "blue")
    assert np.array_equal(image.read(), array.transpose(2, 0, 1))
    assert np.array_equal(image.read(slice(3, 20), slice(30, 53)), array.transpose(2, 0, 1)[:, 3:20, 30:53])


def test_jpeg_tiles_of_a_photograph(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :96]
    array = np.stack([y * 2, x * 2, 255 - y - x], -1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", tile=(32, 32), compression="jpeg")
    image = read_image(tmp_path / "a.tif")
    assert image.color
    assert np.abs(image.read().astype(int) - array.transpose(2, 0, 1)).max() < 20
    assert np.array_equal(image.read(slice(8, 40), slice(16, 70)), image.read()[:, 8:40, 16:70])


def test_transparency_is_dropped(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(read_image(tmp_path / "a.tif").read(), array[..., :3].transpose(2, 0, 1))
    Pillow.fromarray(array[..., :2], mode=None).convert("LA").save(tmp_path / "b.tif")
    image = read_image(tmp_path / "b.tif")
    assert (image.n_channels, image.color) == (1, False)


def test_samples_that_are_no_colours_are_channels(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (20, 30, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig")
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.color) == ("CYX", False)
    assert np.array_equal(image.read(), array.transpose(2, 0, 1))


def test_white_is_zero_is_inverted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], photometric="miniswhite")
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.read()[0], 65_535 - STACK[0])
    assert image.facts["photometric"] == "white is zero (inverted on reading)"
    bits = STACK[0] > 30_000
    tifffile.imwrite(tmp_path / "bits.tif", bits, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "bits.tif").read()[0], ~bits)
    tifffile.imwrite(tmp_path / "float.tif", STACK[0].astype(np.float32), photometric="miniswhite")
    image = read_image(tmp_path / "float.tif")
    assert np.array_equal(image.read()[0], STACK[0])
    assert image.facts["photometric"] == "white is zero (not inverted)"


def test_colour_maps(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
    ramp = np.stack([np.zeros(256), np.arange(256) * 257, np.zeros(256)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "green.tif", array, photometric="palette", colormap=ramp)
    green = read_image(tmp_path / "green.tif")
    assert np.array_equal(green.read()[0], array)
    assert not green.color
    colours = RNG.integers(0, 255, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "picture.tif", array, photometric="palette", colormap=colours * 257)
    picture = read_image(tmp_path / "picture.tif")
    assert picture.color
    assert np.array_equal(picture.read(slice(3, 9)), colours[:, array][:, 3:9])
    assert np.array_equal(read_image(tmp_path / "picture.tif", axes="YX").read(), picture.read())


def test_bilevel_and_packed_bits(tmp_path: Path) -> None:
    bits = RNG.random((19, 33)) > 0.5
    Pillow.fromarray(bits).save(tmp_path / "fax.tif", compression="group4")
    assert np.array_equal(read_image(tmp_path / "fax.tif").read()[0], bits)
    tifffile.imwrite(tmp_path / "12.tif", STACK[0] % 4096, bitspersample=12)
    image = read_image(tmp_path / "12.tif")
    assert image.facts["bits"] == "12"
    assert np.array_equal(image.read(slice(5, 9))[0], STACK[0, 5:9] % 4096)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u4", "i4", "f2", "f4", "f8", "u8"])
def test_pixel_types(tmp_path: Path, dtype: str) -> None:
    array = STACK[0].astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib")
    image = read_image(tmp_path / "a.tif")
    assert image.dtype == np.dtype(dtype)
    assert np.array_equal(image.read()[0], array)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_files_of_libtiff(tmp_path: Path, compression: str | None) -> None:
    Pillow.fromarray(STACK[0]).save(tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read_image(tmp_path / "a.tif").read()[0], STACK[0])


def test_unknown_axes_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack")
    with pytest.raises(ReadError, match=r"a\.tif.*\(3, 37, 53\).*axes='CYX'.*--axes CYX"):
        read_image(path)
    assert read_image(path, axes="cyx").axes == "CYX"
    assert read_image(path, axes="TYX").shape == (3, 1, 37, 53)
    with pytest.raises(InputError, match=r"4 letters.*\(3, 37, 53\)"):
        read_image(path, axes="TCYX")
    with pytest.raises(InputError, match="different letters"):
        read_image(path, axes="QYX")


def test_pages_of_libtiff_are_unknown_axes(tmp_path: Path) -> None:
    pages = [Pillow.fromarray(plane) for plane in STACK]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ReadError, match="axes="):
        read_image(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif", axes="ZYX"))[0], STACK)


def test_said_axes_overrule_the_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="rgb", planarconfig="separate")
    assert read_image(tmp_path / "a.tif").color
    image = read_image(tmp_path / "a.tif", axes="CYX")
    assert not image.color
    assert image.channel_names == ("", "", "")


def test_pyramids_are_read_at_full_resolution(tmp_path: Path) -> None:
    base = RNG.integers(0, 255, (128, 160)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as tif:
        tif.write(base, subifds=2, tile=(32, 32), compression="zlib", metadata={"axes": "YX"})
        tif.write(base[::2, ::2], subfiletype=1, tile=(32, 32), compression="zlib")
        tif.write(base[::4, ::4], subfiletype=1, tile=(32, 32), compression="zlib")
    image = read_image(tmp_path / "a.ome.tif")
    assert np.array_equal(image.read()[0], base)
    assert image.facts["pyramid levels"] == "128 x 160; 64 x 80; 32 x 40"
    assert image.facts["layout"] == "tiles 32 x 32"
    assert image.facts["format"] == "OME-TIFF (BigTIFF)"


def test_the_first_of_several_images_is_read_and_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(STACK[0])
        tif.write(STACK[1, :8, :8])
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.read()[0], STACK[0])
    assert image.facts["images in file"].startswith("2 ")


def test_absent_planes_of_an_ome_tiff_are_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata={"axes": "CYX"}, photometric="minisblack")
    xml = tifffile.tiffcomment(tmp_path / "a.ome.tif").replace('PlaneCount="3"', 'PlaneCount="2"')
    tifffile.tiffcomment(tmp_path / "a.ome.tif", xml.encode())
    assert np.array_equal(
        read_image(tmp_path / "a.ome.tif").read(), STACK * np.array([1, 1, 0], np.uint16)[:, None, None]
    )


@pytest.mark.parametrize("tiled", [False, True])
def test_an_ome_tiff_in_several_files(tmp_path: Path, tiled: bool) -> None:
    layout: dict[str, Any] = {"tile": (16, 16), "compression": "zlib"} if tiled else {}
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(3)]
    for i, plane in enumerate(STACK):
        data = "".join(
            f'<TiffData FirstC="{c}" FirstZ="0" FirstT="0" IFD="0" PlaneCount="1">'
            f'<UUID FileName="c{c}.ome.tif">{uuid}</UUID></TiffData>'
            for c, uuid in enumerate(uuids)
        )
        channels = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="1" Name="c{c}"/>' for c in range(3))
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuids[i]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="53" SizeY="37" '
            f'SizeC="3" SizeZ="1" SizeT="1">{channels}{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"c{i}.ome.tif", plane, description=xml, metadata=None, **layout)
    image = read_image(tmp_path / "c0.ome.tif")
    assert image.channel_names == ("c0", "c1", "c2")
    assert np.array_equal(image.read(slice(5, 30), slice(10, 40)), STACK[:, 5:30, 10:40])
    data = (tmp_path / "c2.ome.tif").read_bytes()
    (tmp_path / "c2.ome.tif").write_bytes(data[:-500])
    with pytest.raises(ReadError, match=r"c0\.ome\.tif.*c2\.ome\.tif"):
        read_image(tmp_path / "c0.ome.tif").read()


def test_an_imagej_stack_over_4_gb_has_one_page_for_all_planes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        link = page.offset + 2 + 12 * len(page.tags)
    with path.open("r+b") as stream:
        stream.seek(link)
        stream.write(b"\0\0\0\0")
    image = read_image(path)
    assert np.array_equal(image.read(slice(3, 9)), STACK[:, 3:9])


def test_tiles_that_are_not_stored_are_empty(tmp_path: Path) -> None:
    tiles = [np.full((16, 16), 7, np.uint8).tobytes(), b"", b"", np.full((16, 16), 9, np.uint8).tobytes()]
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=(32, 32), dtype=np.uint8, tile=(16, 16))
    assert np.array_equal(
        read_image(tmp_path / "a.tif").read()[0], np.kron(np.array([[7, 0], [0, 9]]), np.ones((16, 16)))
    )


@pytest.mark.parametrize("tiled", [False, True])
def test_a_region_decodes_only_what_it_needs(tmp_path: Path, tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((2048, 2048), np.uint16)
    layout: dict[str, Any] = {"tile": (256, 256)} if tiled else {"rowsperstrip": 32}
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib", **layout)
    decoded = []
    decode = reader._Segments._decode_one
    monkeypatch.setattr(
        reader._Segments, "_decode_one", lambda self, data, i: (decoded.append(i), decode(self, data, i))[1]
    )
    image = read_image(tmp_path / "a.tif")
    image.read(slice(300, 500), slice(600, 700))
    assert sorted(decoded) == ([10] if tiled else list(range(9, 16)))
    image.read(slice(300, 500), slice(600, 700))
    assert len(decoded) == (1 if tiled else 7), "what was decoded last is kept"


def test_a_region_of_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    shape = (1, 16_384, 16_384)
    tile = np.arange(512 * 512, dtype=np.uint16).reshape(512, 512)
    tiles = (tile for _ in range(32 * 32))
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=shape, dtype=np.uint16, tile=(512, 512), compression="zstd")
    tracemalloc.start()
    image = read_image(tmp_path / "a.tif")
    region = image.read(slice(8000, 8300), slice(9000, 9500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows, columns = np.arange(8000, 8300) % 512, np.arange(9000, 9500) % 512
    assert np.array_equal(region[0], tile[np.ix_(rows, columns)])
    assert peak < 32 << 20, "the whole image is 512 MiB"


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_CACHE_BYTES", 3 * 16 * 16 * 2)
    cache = reader._Cache()
    for i in range(10):
        cache.put((0, i), (np.zeros((16, 16), np.uint16), (0,)))
    assert [i for i in range(10) if cache.get((0, i)) is not None] == [7, 8, 9]


def test_an_image_that_the_planes_cannot_describe_is_read_whole(stacks: Path) -> None:
    path = stacks / "tiles-zstd.tif"
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        series.transform = lambda array: array + 1
        read = reader._reader(path, series)
    assert np.array_equal(read((slice(0, 3), slice(2, 9), slice(0, 53))), STACK[:, 2:9] + 1)


def test_reading_needs_no_open_file_and_works_in_threads(stacks: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    image = read_image(stacks / "tiles-zstd.tif")
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda y: image.read(slice(y, y + 1)), range(37)))
    assert np.array_equal(np.concatenate(rows, axis=1), STACK)


@pytest.mark.parametrize("way", ["plain", "imagej", "ome", "tiles-zstd", "strips-lzw", "planar"])
def test_a_truncated_file_is_an_error_and_never_other_pixels(stacks: Path, tmp_path: Path, way: str) -> None:
    data = (stacks / f"{way}.tif").read_bytes()
    path = tmp_path / "cut.tif"
    lengths = np.linspace(1, len(data) - 1, 40).astype(int).tolist()
    pixels = []
    for length in [*lengths, len(data) - 64]:
        path.write_bytes(data[:length])
        with contextlib.suppress(ReadError):
            pixels.append(read_image(path, axes="CYX").read())
    assert len(pixels) < 4, "all but a few bytes of metadata at the end are needed"
    assert all(np.array_equal(array, STACK) for array in pixels)


def test_damage_inside_is_told_when_the_pixels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    image = read_image(path)
    assert np.array_equal(image.read(slice(0, 16), slice(0, 16))[0], STACK[0, :16, :16])
    with pytest.raises(ReadError, match=r"a\.tif: the pixels cannot be read.*copy it again"):
        image.read()


@pytest.mark.parametrize("colours", ["separated", "cielab"])
def test_printing_colours_are_refused(tmp_path: Path, colours: str) -> None:
    samples = 4 if colours == "separated" else 3
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, samples), np.uint8), photometric=colours)
    with pytest.raises(ReadError, match="save it as RGB"):
        read_image(tmp_path / "a.tif")


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.complex64))
    with pytest.raises(ReadError, match=r"a\.tif: pixels of type complex64.*magnitude"):
        read_image(tmp_path / "a.tif")


def test_channels_of_photographs_are_refused(tmp_path: Path) -> None:
    array = np.zeros((2, 8, 8, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", metadata={"axes": "CYXS"})
    with pytest.raises(ReadError, match="2 channels of 3 colour samples"):
        read_image(tmp_path / "a.tif")


@pytest.mark.shared_data
def test_real_files(shared_data: Path) -> None:
    files = sorted((shared_data / "dense_tcell_if" / "images").glob("*.tif"))
    assert files
    for path in files:
        image = read_image(path)
        assert image.axes == "CYX"
        assert np.array_equal(image.read(), tifffile.imread(path).reshape(image.shape))
