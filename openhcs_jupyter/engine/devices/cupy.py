"""An NVIDIA GPU through CuPy: kernels on one stream, copies on one stream each way, through pinned memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import numpy as np

from openhcs_jupyter import topology
from openhcs_jupyter.engine.devices.base import Device, DeviceBrokenError, DeviceLostError, DeviceMemoryError, Pixels

_NO_MEMORY = {2}
"""cudaErrorMemoryAllocation."""
_LOST = {3, 45, 46, 100, 101, 214, 802, 999}
"""CUDA's errors of a device that is not there, not to be had, whose memory is broken, or that does not answer."""


class CupyDevice(Device):
    """The one GPU that ``CUDA_VISIBLE_DEVICES`` leaves to this process.

    An array goes up through one of two pinned buffers: while one is on its way, the next is filled. What comes down
    lands in pinned memory of its own. Memory is given back to CuPy's pool only when the kernels that read it are
    done, as the pool knows nothing of other streams.

    Parameters
    ----------
    described
        From the topology.
    """

    def __init__(self, described: topology.Device) -> None:
        super().__init__(described)
        try:
            self._cupy = import_module("cupy")
            self._pinned = import_module("cupyx").empty_pinned
            cuda = self._cupy.cuda
            cuda.Device(0).use()
            self._work = cuda.Stream(non_blocking=True)
            self._up = cuda.Stream(non_blocking=True)
            self._down = cuda.Stream(non_blocking=True)
        except Exception as error:  # whatever CuPy and CUDA raise here, the device cannot be used
            raise DeviceLostError(f"{type(error).__name__}: {error}") from error
        self._buffers = deque([_Buffer(), _Buffer()])
        self._filling = threading.Lock()
        self._clearing = threading.Lock()
        self._ready: dict[int, Any] = {}
        """By id of an array: the event after which it may be read."""
        self._retired: deque[tuple[Any, Any]] = deque()
        """Arrays that are no longer used, each with the event after which nothing reads it."""

    def _upload(self, array: Pixels) -> Any:
        with self._filling, self._told():
            self._clear()
            self._cupy.cuda.Device(0).use()
            buffer = self._buffers[0]
            self._buffers.rotate()
            staged = buffer.filled(array, self._pinned)
            with self._up:
                held = self._cupy.empty(array.shape, array.dtype)
                held.set(staged, stream=self._up)
                buffer.event = self._ready[id(held)] = self._up.record()
            return held

    def _download(self, held: Any) -> Pixels:
        with self._told():
            self._cupy.cuda.Device(0).use()
            self._wait(self._down, [held])
            if not held.flags.c_contiguous:
                with self._work:
                    self._wait(self._work, [held])
                    held = self._cupy.ascontiguousarray(held)
                self._down.wait_event(self._work.record())
            array: Pixels = self._pinned(held.shape, held.dtype)
            held.get(stream=self._down, out=array)
            self._down.synchronize()
            return array

    def run(self, kernel: Callable[[], Any], inputs: Sequence[Any], need_bytes: int) -> Any:  # noqa: ARG002 - the interface has it
        """Launch a kernel on the stream of the kernels."""
        with self._told():
            self._cupy.cuda.Device(0).use()
            self._clear()
            with self._work:
                self._wait(self._work, inputs)
                try:
                    result = kernel()
                except self._cupy.cuda.memory.OutOfMemoryError:
                    self.trim()
                    result = kernel()
                made = self._work.record()
            for value in result if isinstance(result, tuple) else (result,):
                if self.is_held(value):
                    self._ready[id(value)] = made
            return result

    def is_held(self, value: object) -> bool:
        """Tell whether a value is an array of CuPy's."""
        return isinstance(value, self._cupy.ndarray)

    def stack(self, planes: Sequence[Any]) -> Any:
        """Join planes."""
        return self._cupy.stack(planes)

    def concatenate(self, parts: Sequence[Any]) -> Any:
        """Join stacks."""
        return self._cupy.concatenate(parts)

    def release(self, held: Any) -> None:
        """Keep an array until what was launched so far is done."""
        self._ready.pop(id(held), None)
        with self._told():
            self._retired.append((held, self._work.record()))

    def trim(self) -> None:
        """Wait for what is launched, and give the pools' memory back."""
        self.synchronise()
        self._clear()
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def synchronise(self) -> None:
        """Wait for all three streams."""
        with self._told():
            for stream in (self._up, self._work, self._down):
                stream.synchronize()

    @property
    def free_bytes(self) -> int:
        """What the driver tells, and what CuPy's pool holds unused."""
        with self._told():
            free: int = self._cupy.cuda.Device(0).mem_info[0]
            return free + int(self._cupy.get_default_memory_pool().free_bytes())

    def _wait(self, stream: Any, arrays: Sequence[Any]) -> None:
        """Have a stream wait for what makes arrays; of a part it waits for its whole."""
        for array in arrays:
            # What no event is known of is what a kernel was given, and then it is there when the kernel has run.
            event = self._ready.get(id(array)) or self._ready.get(id(array.base)) or self._work.record()
            stream.wait_event(event)

    def _clear(self) -> None:
        """Let go of the arrays that nothing reads any more."""
        with self._clearing:
            while self._retired and self._retired[0][1].done:
                self._retired.popleft()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say errors of CUDA in the words of the interface."""
        cuda = self._cupy.cuda
        try:
            yield
        except cuda.memory.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error
        except cuda.runtime.CUDARuntimeError as error:
            self._raise(error, int(error.status))
        except cuda.driver.CUDADriverError as error:
            self._raise(error, int(error.status))

    def _raise(self, error: Exception, status: int) -> NoReturn:
        if status in _NO_MEMORY:
            raise DeviceMemoryError(str(error)) from error
        if status in _LOST:
            raise DeviceLostError(str(error)) from error
        raise DeviceBrokenError(str(error)) from error


class _Buffer:
    """Pinned memory through which arrays go up."""

    def __init__(self) -> None:
        self.event: Any = None
        """After which it may be filled again."""
        self._memory: Any = None

    def filled(self, array: Pixels, make: Callable[..., Any]) -> Any:
        """Copy an array into it, once it is free."""
        if self.event is not None:
            self.event.synchronize()
        if self._memory is None or self._memory.nbytes < array.nbytes:
            self._memory = make((array.nbytes,), np.uint8)
        staged = self._memory[: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(staged, array)
        return staged
