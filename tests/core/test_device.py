"""One `device` choice, refused with the remedy where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from cellweave.core.device import choose_device, inference_dtype
from cellweave.core.errors import InputError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without accelerators; tests add them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def with_cuda(machine: pytest.MonkeyPatch, n: int = 1) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: n)


def test_auto_takes_the_fastest_that_is_there(machine: pytest.MonkeyPatch) -> None:
    assert choose_device().type == "cpu"
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    with_cuda(machine)
    assert choose_device("auto").type == "cuda"


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_what_is_not_there_is_told(device: str) -> None:
    with pytest.raises(InputError, match=rf"'{device}' is not available.*--device auto or cpu"):
        choose_device(device)


@pytest.mark.parametrize("device", ["", "gpu", "CUDA", "tpu:0", "cuda:x", "cuda:-1", "cuda:2"])
def test_what_does_not_exist_is_told(machine: pytest.MonkeyPatch, device: str) -> None:
    with_cuda(machine, n=2)
    with pytest.raises(InputError, match=f"'{device}'"):
        choose_device(device)


def test_one_of_several(machine: pytest.MonkeyPatch) -> None:
    with_cuda(machine, n=2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("capable", [True, False])
def test_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, capable: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: capable)
    expected = torch.bfloat16 if capable else torch.float32
    assert inference_dtype(torch.device("cuda")) == expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: capable, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert inference_dtype(torch.device("cpu")) == expected
    assert inference_dtype(torch.device("mps")) == torch.float32


def test_a_torch_that_does_not_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert inference_dtype(torch.device("cpu")) == torch.float32


NEW_PAGES = """
import resource
import sys
import torch
from cellweave.core.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""How many pages of memory the last of many large arrays asks for: the first ones may leave gaps of a few bytes, which
glibc keeps for small arrays, up to seven of them."""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory is left alone")
def test_memory_that_is_freed_is_kept() -> None:
    def pages(word: str) -> int:
        command = [sys.executable, "-c", NEW_PAGES, word]
        small = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=small).stdout)

    assert pages("keep") < 0.05 * pages("leave")


@pytest.mark.skipif(sys.platform != "linux", reason="large pages are Linux's")
@pytest.mark.parametrize(("wish", "large"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_large_tensors_are_of_large_pages_unless_the_user_wishes_otherwise(wish: dict[str, str], large: bool) -> None:
    # PyTorch tells by their address: only what begins with a page can be of large pages
    code = "import cellweave, mmap, torch; print([torch.empty(2**24 + k).data_ptr() % mmap.PAGESIZE for k in range(5)])"
    rest = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=rest | wish)
    assert (done.stdout.strip() == str([0] * 5)) == large
