"""The order in which a CuPy device does things, on a stand-in for CuPy that notes it; it proves no GPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.engine.devices.base import DeviceBrokenError, DeviceLostError, DeviceMemoryError, OnDevice
from openhcs_jupyter.topology import Device

HERE = Device(id="gpu:0", uuid="GPU-0", name="Stand-in", memory_bytes=1 << 30, memory_free_bytes=1 << 30)


class Array(np.ndarray):  # type: ignore[type-arg]  # any array
    """CuPy's array."""

    def set(self, array: Any, stream: Any) -> None:
        stream.notes.append(("up", stream.name))
        self[...] = array

    def get(self, stream: Any, out: Any) -> None:
        stream.notes.append(("down", stream.name))
        out[...] = self


class Event:
    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.done = False

    def synchronize(self) -> None:
        self.stream.notes.append(("event of", self.stream.name))
        self.done = True


class CudaError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}")
        self.status = status


class NoMemoryError(MemoryError):
    pass


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    notes: list[tuple[str, str]] = []
    names = iter(("kernels", "up", "down"))

    class Stream:
        def __init__(self, non_blocking: bool) -> None:
            assert non_blocking
            self.name = next(names)
            self.notes = notes

        def __enter__(self) -> None:
            notes.append(("on", self.name))

        def __exit__(self, *error: object) -> None:
            pass

        def record(self) -> Event:
            return Event(self)

        def wait_event(self, event: Event) -> None:
            notes.append((f"{self.name} waits for", event.stream.name))

        def synchronize(self) -> None:
            notes.append(("wait for", self.name))

    pool = SimpleNamespace(free_all_blocks=lambda: notes.append(("free", "pool")), free_bytes=lambda: 5)
    cupy = ModuleType("cupy")
    vars(cupy).update(
        ndarray=Array,
        empty=lambda shape, dtype: np.zeros(shape, dtype).view(Array),
        stack=lambda arrays: np.stack(arrays).view(Array),
        concatenate=lambda arrays: np.concatenate(arrays).view(Array),
        ascontiguousarray=lambda array: np.ascontiguousarray(array).view(Array),
        get_default_memory_pool=lambda: pool,
        get_default_pinned_memory_pool=lambda: pool,
        cuda=SimpleNamespace(
            Device=lambda index: SimpleNamespace(use=lambda: None, mem_info=(100, 200)),
            Stream=Stream,
            memory=SimpleNamespace(OutOfMemoryError=NoMemoryError),
            runtime=SimpleNamespace(CUDARuntimeError=CudaError),
            driver=SimpleNamespace(CUDADriverError=type("DriverError", (CudaError,), {})),
        ),
    )
    cupyx = ModuleType("cupyx")
    vars(cupyx)["empty_pinned"] = lambda shape, dtype=float, order="C": np.zeros(shape, dtype)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    from openhcs_jupyter.engine.devices.cupy import CupyDevice

    device = CupyDevice(HERE)
    return SimpleNamespace(device=device, notes=notes)


def test_an_array_goes_up_is_changed_and_comes_down_each_on_its_stream(cuda: Any) -> None:
    stack = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    box = cuda.device.upload(stack)
    made = OnDevice(cuda.device, cuda.device.run(lambda: box.held() + 1, [box.held()], 0))
    assert np.array_equal(made.host(), stack + 1)
    assert cuda.notes == [
        ("on", "up"),
        ("up", "up"),
        ("on", "kernels"),
        ("kernels waits for", "up"),
        ("down waits for", "kernels"),
        ("down", "down"),
        ("wait for", "down"),
    ]
    assert (cuda.device.bytes_up, cuda.device.bytes_down) == (48, 48)


def test_two_buffers_take_turns_and_wait_until_they_are_free(cuda: Any) -> None:
    arrays = [np.full((1, 2, 2), value, np.uint8) for value in range(4)]
    boxes = [cuda.device.upload(array) for array in arrays]
    assert [note for note in cuda.notes if note[0] == "event of"] == [("event of", "up")] * 2
    assert all(np.array_equal(box.held(), array) for box, array in zip(boxes, arrays, strict=True))


def test_memory_is_given_back_only_when_nothing_reads_it(cuda: Any) -> None:
    box = cuda.device.upload(np.zeros((1, 2, 2), np.uint8))
    del box
    device = cuda.device
    assert len(device._retired) == 1
    device.upload(np.zeros((1, 2, 2), np.uint8))
    assert len(device._retired) == 2
    for _, event in device._retired:
        event.done = True
    device.run(lambda: None, [], 0)
    assert len(device._retired) == 0


def test_a_part_waits_for_its_whole(cuda: Any) -> None:
    box = cuda.device.upload(np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
    cuda.notes.clear()
    cuda.device.run(lambda: None, [box[1].held()], 0)
    assert ("kernels waits for", "up") in cuda.notes


def test_a_kernel_that_finds_no_memory_is_tried_again_when_the_pool_is_empty(cuda: Any) -> None:
    tries = []

    def kernel() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise NoMemoryError
        return None

    cuda.device.run(kernel, [], 0)
    assert ("free", "pool") in cuda.notes
    tries.clear()

    def never() -> Any:
        raise NoMemoryError("2 GB")

    with pytest.raises(DeviceMemoryError, match="2 GB"):
        cuda.device.run(never, [], 0)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (2, DeviceMemoryError),
        (46, DeviceLostError),
        (214, DeviceLostError),
        (999, DeviceLostError),
        (700, DeviceBrokenError),
    ],
)
def test_errors_of_cuda_are_told_apart(cuda: Any, status: int, error: type[Exception]) -> None:
    def kernel() -> Any:
        raise CudaError(status)

    with pytest.raises(error):
        cuda.device.run(kernel, [], 0)


def test_free_memory_is_what_the_driver_and_the_pool_have(cuda: Any) -> None:
    assert cuda.device.free_bytes == 105


def test_without_cupy_a_device_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from openhcs_jupyter.engine.devices.cupy import CupyDevice

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceLostError, match="cupy"):
        CupyDevice(HERE)
