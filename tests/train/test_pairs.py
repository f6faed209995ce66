"""Finding image and label files by every usual naming, and the check before a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image as PillowImage

from cellweave.core.errors import InputError
from cellweave.core.progress import showing
from cellweave.train.pairs import check_folder, check_pairs, find_pairs, pictures_below

SHAPE = (40, 56)


def cells(n: int = 6, side: int = 6) -> NDArray[np.uint16]:
    labels = np.zeros(SHAPE, np.uint16)
    for k in range(n):
        y, x = k // 6 * 8 + 1, k % 6 * 9 + 1
        labels[y : y + side, x : x + side] = k + 1
    return labels


def picture(dtype: Any = np.uint8) -> NDArray[Any]:
    return (cells() * 20 + 3).astype(dtype)


def save(path: Path, array: NDArray[Any]) -> Path:
    """Write by the program that people use for the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix.lower():
        case ".tif" | ".tiff":
            tifffile.imwrite(path, array)
        case ".npy":
            np.save(path, array)
        case ".zarr":
            zarr.save_array(path, array)
        case _:
            PillowImage.fromarray(array).save(path)
    return path


def save_seg(path: Path, masks: NDArray[Any]) -> Path:
    """As Cellpose saves it: a pickled dict in a .npy file."""
    np.save(path, {"masks": masks, "outlines": masks * 0, "filename": "x.png", "diameter": 6.0})  # type: ignore[arg-type]
    return path


def names(folder: Path) -> list[tuple[str, str, str]]:
    return [
        (p.name, p.image.relative_to(folder).as_posix(), p.labels.relative_to(folder).as_posix())
        for p in find_pairs(folder)
    ]


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("x.tif", "x_masks.tif"),
        ("x.tif", "x_masks.png"),
        ("x.TIF", "x_Masks.PNG"),
        ("x.tiff", "x_mask.tiff"),
        ("x.png", "x_labels.tif"),
        ("x.jpg", "x_label.png"),
        ("x.jpeg", "x_cp_masks.png"),
        ("x.bmp", "x_masks.bmp"),
        ("x.npy", "x_masks.npy"),
        ("x.zarr", "x_masks.zarr"),
        ("x.ome.tif", "x_masks.ome.tif"),
        ("x_img.tif", "x_masks.tif"),
        ("x_img.png", "x_masks.png"),
        ("x_img.png", "x_img_masks.png"),
        ("x_image.tif", "x_labels.png"),
        ("images/x.tif", "labels/x.tif"),
        ("images/x.png", "masks/x.tif"),
        ("images/x.png", "labels/x_label.png"),
        ("images/x.png", "labels/x_labels.png"),
        ("images/x.png", "masks/x_mask.png"),
        ("images/x.png", "masks/x_masks.npy"),
        ("images/x_img.png", "masks/x_masks.png"),
        ("images/x_img.png", "labels/x.png"),
        ("images/x_masks.png", "masks/x_masks.png"),
        ("Images/x.png", "Masks/x.png"),
        ("imgs/a.b 7.png", "labels/a.b 7.png"),
    ],
)
def test_every_naming(tmp_path: Path, image: str, labels: str) -> None:
    save(tmp_path / image, picture())
    save(tmp_path / labels, cells().astype(np.uint8))
    [(name, found_image, found_labels)] = names(tmp_path)
    assert (found_image, found_labels) == (image, labels)
    assert name == image.split("/")[-1].replace(".ome", "").rpartition(".")[0]


def test_cellpose_seg_npy_beside_the_image(tmp_path: Path) -> None:
    save(tmp_path / "x.png", picture())
    save_seg(tmp_path / "x_seg.npy", cells())
    assert names(tmp_path) == [("x", "x.png", "x_seg.npy")]
    report = check_folder(tmp_path)
    assert report.ok
    assert report.facts[0].n_objects == 6


def test_label_files_have_an_order_of_precedence(tmp_path: Path) -> None:
    save(tmp_path / "x.png", picture())
    save_seg(tmp_path / "x_seg.npy", cells())
    for name in ("x_cp_masks.png", "x_label.png", "x_labels.tif", "x_mask.png", "x_masks.png", "x_masks.tif"):
        save(tmp_path / name, cells())
        assert names(tmp_path) == [("x", "x.png", name)]
    assert check_folder(tmp_path).problems == ()


def test_images_of_one_name_have_an_order_of_precedence(tmp_path: Path) -> None:
    for name in ("x.png", "x.tif", "x_img.tif"):
        save(tmp_path / name, picture())
    save(tmp_path / "x_masks.png", cells())
    save(tmp_path / "x_masks.tif", cells())
    assert names(tmp_path) == [("x", "x.tif", "x_masks.tif")]
    assert [(p.file.name, p.what) for p in check_folder(tmp_path).problems] == [
        ("x.png", "x.tif has the same name and is used"),
        ("x_img.tif", "has no labels"),
    ]


def test_image_and_label_folders_come_before_files_beside_each_other(tmp_path: Path) -> None:
    save(tmp_path / "x.png", picture())
    save(tmp_path / "x_masks.png", cells())
    assert names(tmp_path) == [("x", "x.png", "x_masks.png")]
    save(tmp_path / "images" / "y.png", picture())
    (tmp_path / "masks").mkdir()
    assert names(tmp_path) == [("x", "x.png", "x_masks.png")]
    save(tmp_path / "masks" / "y.png", cells())
    assert names(tmp_path) == [("y", "images/y.png", "masks/y.png")]
    save(tmp_path / "labels" / "y.png", cells())
    assert names(tmp_path) == [("y", "images/y.png", "labels/y.png")]


def test_equal_names_in_the_label_folder_come_before_endings(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png"):
        save(tmp_path / "images" / name, picture())
        save(tmp_path / "labels" / name, cells())
    assert names(tmp_path) == [
        ("a", "images/a.png", "labels/a.png"),
        ("a_mask", "images/a_mask.png", "labels/a_mask.png"),
    ]


def test_order_is_that_of_the_names(tmp_path: Path) -> None:
    for name in ("c", "a", "b10", "b9"):
        save(tmp_path / f"{name}.tif", picture())
        save(tmp_path / f"{name}_masks.tif", cells())
    assert [name for name, _, _ in names(tmp_path)] == ["a", "b10", "b9", "c"]


def test_by_products_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    save(tmp_path / "x.png", picture())
    save(tmp_path / "x_masks.png", cells())
    for name in ("x_flows.tif", "x_overlay.png", "x_cp_output.png", "._x.png", ".hidden.tif"):
        save(tmp_path / name, picture())
    (tmp_path / "notes.txt").write_text("hello")
    assert names(tmp_path) == [("x", "x.png", "x_masks.png")]
    assert check_folder(tmp_path).problems == ()


def test_unlabelled_images_are_no_results(tmp_path: Path) -> None:
    for name in ("x.tif", "sub/y.btf", "sub/labels/y.tif", "x_counted.png", "x_density.tif", "x_diagnostics.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert pictures_below(tmp_path) == [tmp_path / "sub/y.btf", tmp_path / "x.tif"]


def test_missing_partners_are_reported_and_the_rest_is_used(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, picture())
    for name in ("b_masks.png", "c_masks.png", "d_masks.jpg"):
        save(tmp_path / name, cells().astype(np.uint8))
    report = check_folder(tmp_path)
    assert [p.name for p in report.usable] == ["b"]
    assert report.ok
    found = {p.file.name: str(p) for p in report.problems}
    assert found.keys() == {"a.png", "c_masks.png", "d_masks.jpg"}
    assert "has no labels" in found["a.png"]
    assert "has no image" in found["c_masks.png"]
    assert "JPEG" in found["d_masks.jpg"]
    assert all(line in report.text() for line in found.values())


def test_an_empty_folder_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        check_folder(tmp_path / "nowhere")


def test_images_without_labels_are_told_with_the_namings(tmp_path: Path) -> None:
    for k in range(20):
        save(tmp_path / f"scan{k:02}.png", picture())
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path)
    message = str(caught.value)
    assert "scan00.png" in message
    assert "8 more" in message
    assert all(naming in message for naming in ("x_masks.tif", "x_seg.npy", "images/x.tif"))


def test_sub_folders_with_pairs_are_pointed_at(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "images" / "x.png", picture())
        save(tmp_path / split / "masks" / "x.png", cells())
    with pytest.raises(InputError, match="give one of them") as caught:
        find_pairs(tmp_path)
    assert f"{tmp_path / 'test'}, {tmp_path / 'train'}" in str(caught.value)


def bad_pair(folder: Path, kind: str) -> None:
    """A pair called `kind` of which one file is bad."""
    image, labels = save(folder / f"{kind}.tif", picture()), folder / f"{kind}_masks.tif"
    save(labels, cells())
    match kind:
        case "float":
            save(labels, cells() / 7)
        case "shape":
            save(labels, cells()[:20])
        case "swapped":
            save(labels, cells().T)
        case "truncated":
            image.write_bytes(image.read_bytes()[:-900])
        case "text":
            labels.write_text("these are not labels")
        case "zero":
            image.write_bytes(b"")
        case "stack":
            tifffile.imwrite(image, np.stack([picture()] * 3), photometric="minisblack", metadata={"axes": "ZYX"})
        case "colours":
            save(labels, np.stack([cells().astype(np.uint8)] * 3, axis=-1))


BAD = {
    "float": "whole numbers",
    "shape": "20 x 56, but shape.tif is 40 x 56",
    "swapped": "transpose",
    "truncated": "truncated.tif",
    "text": "text_masks.tif",
    "zero": "empty",
    "stack": "several planes",
    "colours": "colours_masks.tif",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_reported_and_left_out(tmp_path: Path, kind: str) -> None:
    bad_pair(tmp_path, kind)
    save(tmp_path / "zz.tif", picture())
    save(tmp_path / "zz_masks.tif", cells())
    report = check_folder(tmp_path)
    assert [p.name for p in report.usable] == ["zz"]
    [problem] = report.problems
    assert problem.excluded
    assert not report.ok
    assert BAD[kind] in str(problem)
    assert "1 of 2 image pairs" in report.text()
    assert BAD[kind] in report.text()


def test_one_report_for_many_bad_files(tmp_path: Path) -> None:
    for kind in BAD:
        bad_pair(tmp_path, kind)
    report = check_folder(tmp_path)
    assert report.usable == []
    assert len(report.problems) == len(BAD)
    assert f"0 of {len(BAD)} image pairs" in report.text()


def test_a_seg_npy_that_would_run_a_command_is_left_out(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    save(tmp_path / "x.png", picture())
    np.save(tmp_path / "x_seg.npy", {"masks": cells(), "evil": Evil()})  # type: ignore[arg-type]
    report = check_folder(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert report.usable == []
    assert report.problems[0].file.name == "x_seg.npy"


def test_few_objects_are_worth_knowing(tmp_path: Path) -> None:
    for name, n in (("none", 0), ("two", 2), ("many", 12)):
        save(tmp_path / f"{name}.png", picture())
        save(tmp_path / f"{name}_masks.png", cells(n))
    mask = (cells() > 0).astype(np.uint8)
    save(tmp_path / "binary.png", picture())
    save(tmp_path / "binary_masks.png", mask)
    report = check_folder(tmp_path)
    assert report.ok
    assert len(report.usable) == 4
    assert {p.file.name: p.what for p in report.problems} == {
        "none_masks.png": "has no objects",
        "two_masks.png": "has only 2 objects",
        "binary_masks.png": "its 6 separate pieces have one id, as in a mask of cells against background",
    }
    assert len(check_pairs(find_pairs(tmp_path), min_objects=1).problems) == 2


def test_nothing_but_background_is_not_ok(tmp_path: Path) -> None:
    save(tmp_path / "x.png", picture())
    save(tmp_path / "x_masks.png", cells(0))
    report = check_folder(tmp_path)
    assert len(report.usable) == 1
    assert not report.ok
    assert "0 in all" in report.text()


def test_facts_and_text(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", picture(np.uint16))
    save(tmp_path / "a_masks.tif", cells(6, side=4))
    save(tmp_path / "b.png", np.stack([picture()] * 3, axis=-1))
    save(tmp_path / "b_masks.png", cells(24, side=6))
    report = check_folder(tmp_path)
    assert report.ok
    assert [(f.n_objects, f.n_channels, f.dtype) for f in report.facts] == [
        (6, 1, "uint16"),
        (24, 3, "uint8"),
    ]
    assert [f.diameter for f in report.facts] == pytest.approx([8 / np.pi**0.5, 12 / np.pi**0.5])
    assert sorted(set(report.object_diameters)) == pytest.approx([8 / np.pi**0.5, 12 / np.pi**0.5])
    text = report.text()
    assert "2 of 2 image pairs can be used" in text
    assert "1 with 1 channel uint16, 1 with 3 channels uint8" in text
    assert "30 in all; 6 to 24 an image" in text
    assert "medians of the images from 4.5 to 6.8 px" in text
    bars = [line for line in text.splitlines() if line.endswith("#")]
    assert [line.split()[-2:] for line in bars] == [["6", "#" * 10], ["24", "#" * 40]]


@pytest.mark.parametrize("spread", [[5.0], [3.0, 3.0], [1.0, 900.0], list(np.linspace(4, 60, 700))])
def test_histogram_counts_every_object(spread: list[float]) -> None:
    from cellweave.train.pairs import _histogram

    lines = _histogram(np.array(spread))
    assert sum(int(line.split()[4].replace(",", "")) for line in lines) == len(spread)
    assert len(lines) <= 13


def test_long_lists_are_cut_in_the_text(tmp_path: Path) -> None:
    for k in range(20):
        save(tmp_path / f"{k:02}.png", picture())
    save(tmp_path / "00_masks.png", cells())
    text = check_folder(tmp_path).text()
    assert "Worth knowing (19)" in text
    assert "... and 7 more" in text


def test_progress_is_told_from_the_first_pair(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", picture())
        save(tmp_path / f"{name}_masks.png", cells())
    told: list[tuple[str, int, int, str]] = []
    with showing(lambda *state: told.append(state)):
        check_pairs(find_pairs(tmp_path))
    task = "checking the data"
    assert told == [(task, 0, 2, "a"), (task, 1, 2, "b"), (task, 2, 2, "")]


@pytest.mark.shared_data
def test_real_data(shared_data: Path) -> None:
    pairs = find_pairs(shared_data / "bbbc039")
    assert len(pairs) == 57
    report = check_pairs(pairs[:4])
    assert report.ok
    assert 15 < np.median(report.object_diameters) < 40
