"""Cellpose's `_seg.npy` is read, and nothing in it is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellweave.core.errors import ReadError
from cellweave.io import read_image, read_labels, read_seg_npy

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cellpose_seg.npy"
MASKS = np.zeros((16, 20), np.uint16)
MASKS[2:7, 3:9], MASKS[9:15, 10:18] = 1, 2


def save(path: Path, content: Any, protocol: int = 4, *, old_names: bool = False) -> Path:
    """What `numpy.save(path, content)` writes, with any pickle protocol and the module names of NumPy 1 or 2."""
    stream = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, header)
    data = pickle.dumps(np.asanyarray(content, dtype=object), protocol=protocol)
    if old_names:
        assert protocol < 4, "later protocols write the lengths of names"
        data = data.replace(b"numpy._core", b"numpy.core")
    path.write_bytes(stream.getvalue() + data)
    return path


def raw(path: Path, data: bytes) -> Path:
    """An object array whose pickle is `data`."""
    save(path, {})
    head = path.read_bytes()[:128]
    path.write_bytes(head + data)
    return path


def test_a_file_of_cellpose() -> None:
    """Written by `cellpose.io.masks_flows_to_seg` of cellpose 3.1.1.3 with NumPy 2.0."""
    content = read_seg_npy(GOLDEN)
    assert np.array_equal(content["masks"], MASKS)
    assert content["masks"].dtype == np.uint16
    assert content["outlines"].shape == MASKS.shape
    assert content["filename"] == "cellpose.png"
    assert content["diameter"] == 21.5
    assert content["ismanual"].tolist() == [False, False]
    assert [flow.shape for flow in content["flows"][:2]] == [(1, 16, 20, 3), (1, 16, 20)]
    assert np.array_equal(read_labels(GOLDEN), MASKS)
    assert read_labels(GOLDEN).dtype == np.int32


def test_what_numpy_reads_we_read() -> None:
    ours, theirs = read_seg_npy(GOLDEN), np.load(GOLDEN, allow_pickle=True).item()
    assert ours.keys() == theirs.keys()
    for name in ("masks", "outlines", "ismanual", "diameter"):
        assert np.array_equal(ours[name], theirs[name])
    for mine, other in zip(ours["flows"], theirs["flows"], strict=True):
        assert np.array_equal(mine, other)
        assert mine.dtype == other.dtype


@pytest.mark.parametrize(("protocol", "old_names"), [(3, False), (3, True), (4, False), (5, False)])
def test_every_protocol_and_both_numpys(tmp_path: Path, protocol: int, old_names: bool) -> None:
    content = {
        "masks": np.asfortranarray(MASKS.astype(">i4")),
        "outlines": MASKS[:, ::2],
        "diameter": np.float32(3.5),
        "filename": Path("/images/a.tif"),
        "ismanual": np.array([True, False]),
        "flows": [np.zeros((2, 3), np.float32), [np.ones(3)], None],
        "names": np.array(["a", "bc"]),
        "list": np.array([{"a": 1}, None], dtype=object),
        "restore": (1, "x", True, {"k": 2.5}),
    }
    found = read_seg_npy(save(tmp_path / "a_seg.npy", content, protocol, old_names=old_names))
    assert np.array_equal(found["masks"], MASKS)
    assert found["masks"].dtype.isnative
    assert np.array_equal(found["outlines"], MASKS[:, ::2])
    assert found["diameter"] == 3.5
    assert found["filename"] == "/images/a.tif"
    assert found["ismanual"].tolist() == [True, False]
    assert np.array_equal(found["flows"][1][0], np.ones(3))
    assert found["names"].tolist() == ["a", "bc"]
    assert found["list"].tolist() == [{"a": 1}, None]
    assert found["restore"] == (1, "x", True, {"k": 2.5})


class Command:
    """Unpickled by NumPy or Python, this runs `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def traps(mark: Path) -> dict[str, Any]:
    import os

    return {
        "posix.system|nt.system": Command(os.system, f"touch {mark}"),
        "builtins.eval": Command(eval, f"open({str(mark)!r}, 'w').close()"),
        "builtins.exec": Command(exec, f"open({str(mark)!r}, 'w').close()"),
        "builtins.getattr": Command(getattr, Command(__import__, "os"), "system"),
        "builtins.__import__": Command(__import__, "os"),
        "io.open|_io.open": Command(open, str(mark), "w"),
        "subprocess.check_output": Command(__import__("subprocess").check_output, ["touch", str(mark)]),
        "numpy.load": Command(np.load, str(mark)),
        "functools.partial": __import__("functools").partial(print, "x"),
    }


@pytest.mark.parametrize("name", traps(Path("x")))
@pytest.mark.parametrize("place", ["beside", "inside a list", "instead of masks", "instead of all"])
def test_a_command_is_refused_and_not_run(tmp_path: Path, name: str, place: str) -> None:
    mark = tmp_path / "was run"
    trap = traps(mark)[name]
    content = {
        "beside": {"masks": MASKS, "x": trap},
        "inside a list": {"masks": MASKS, "flows": [np.array([trap], dtype=object)]},
        "instead of masks": {"masks": trap},
        "instead of all": trap,
    }[place]
    path = save(tmp_path / "a_seg.npy", content)
    for read in (read_seg_npy, read_labels):
        with pytest.raises(ReadError, match=r"a_seg\.npy: refused, because it names .*Nothing was run"):
            read(path)
    assert not mark.exists()


def test_the_trap_works_outside(tmp_path: Path) -> None:
    """The test above means something: NumPy does run the command."""
    mark = tmp_path / "was run"
    path = save(tmp_path / "a_seg.npy", {"masks": traps(mark)["builtins.eval"]})
    np.load(path, allow_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"cnumpy\n_core.multiarray._reconstruct\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'x'\ntR.",
        b"\x80\x02\x82\x01.",
        b"Pfile\n.",
    ],
)
def test_tricks_of_the_pickle_language(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ReadError, match=r"a_seg\.npy"):
        read_seg_npy(raw(tmp_path / "a_seg.npy", data))


def test_allowed_names_are_stand_ins(tmp_path: Path) -> None:
    """What is on the list is noted, not called: state cannot be set on it, odd arguments are refused."""
    multiarray = b"cnumpy.core.multiarray\n"
    for data in (
        multiarray + b"_reconstruct\n(I1\nI2\nI3\ntR.",
        multiarray + b"_reconstruct\n}b.",
        multiarray + b"scalar\n(I1\nI2\ntR.",
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy\nndarray\n.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
    ):
        with pytest.raises(ReadError, match="cannot be read as a Cellpose"):
            read_seg_npy(raw(tmp_path / "a_seg.npy", data))


class Crafted:
    """Pickles as an array with any dtype text, shape and bytes."""

    def __init__(self, dtype: str, shape: tuple[int, ...], data: Any) -> None:
        self.parts = (dtype, shape, data)

    def __reduce__(self) -> Any:
        dtype, shape, data = self.parts
        reconstruct = np.zeros(1).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(dtype), False, data)

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("not used")


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("O", (1,), b"\0" * 8),
        ("u2,O", (1,), b"\0" * 10),
        ("M8[s]", (1,), b"\0" * 8),
        ("u2", (10**9, 10**9), b"\0\0"),
        ("u2", (-1,), b"\0\0"),
        ("u2", (1,), "text"),
    ],
)
def test_arrays_of_other_things_are_refused(tmp_path: Path, dtype: str, shape: Any, data: Any) -> None:
    path = save(tmp_path / "a_seg.npy", {"masks": Crafted(dtype, shape, data)})
    with pytest.raises(ReadError, match=r"a_seg\.npy: cannot be read"):
        read_seg_npy(path)


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ReadError, match="nested too deeply"):
        read_seg_npy(save(tmp_path / "a_seg.npy", {"masks": MASKS, "x": loop}))
    shared: list[Any] = []
    for _ in range(12):
        shared = [shared] * 1000
    assert len(read_seg_npy(save(tmp_path / "a_seg.npy", {"masks": MASKS, "x": shared}))["x"]) == 1000


def test_files_that_are_no_seg_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", MASKS)
    with pytest.raises(ReadError, match="not the dict of a Cellpose"):
        read_seg_npy(tmp_path / "plain.npy")
    with pytest.raises(ReadError, match="no array 'masks'"):
        read_seg_npy(save(tmp_path / "other.npy", {"flows": []}))
    with pytest.raises(ReadError, match="no array 'masks'"):
        read_seg_npy(save(tmp_path / "list.npy", [1, 2]))
    with pytest.raises(ReadError, match=r"absent\.npy: cannot be opened"):
        read_seg_npy(tmp_path / "absent.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(ReadError, match=r"text\.npy: cannot be read"):
        read_seg_npy(tmp_path / "text.npy")
    with pytest.raises(ReadError, match=r"read_labels"):
        read_image(GOLDEN)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    data = GOLDEN.read_bytes()
    for length in np.linspace(1, len(data) - 1, 60).astype(int):
        (tmp_path / "cut_seg.npy").write_bytes(data[:length])
        with pytest.raises(ReadError, match=r"cut_seg\.npy"):
            read_seg_npy(tmp_path / "cut_seg.npy")
