"""What the engine asks of a GPU: a small interface, the stacks that lie there, and what can go wrong."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter import topology

Pixels = NDArray[np.generic]


class DeviceMemoryError(Exception):
    """A device has not the memory that was asked of it."""


class DeviceLostError(Exception):
    """A device does not answer any more: it fell off the bus, was reset, or its memory is broken."""


class DeviceBrokenError(Exception):
    """A kernel has left the device's context unusable for this process; another process may use the device."""


class Device(ABC):
    """One GPU, or a slice of one, in the process that owns it. Safe to use from threads.

    Uploads, kernels and downloads go on beside each other; each waits only for what it needs. Errors are
    `DeviceMemoryError`, `DeviceLostError` and `DeviceBrokenError`; whatever else a kernel raises is its own.
    """

    def __init__(self, described: topology.Device) -> None:
        self.described = described
        self.bytes_up = 0
        self.bytes_down = 0
        self.notices: list[str] = []
        """What the user should know, until the outcome of a unit takes it along."""
        self._stacks: WeakSet[OnDevice] = WeakSet()
        self._noting = threading.Lock()

    @property
    def name(self) -> str:
        """Its id and name, such as ``gpu:0 (NVIDIA L4)``."""
        return f"{self.described.id} ({self.described.name})"

    def upload(self, array: Pixels) -> OnDevice:
        """Begin to copy an array to the device."""
        return OnDevice(self, self.copied(array), array)

    def copied(self, array: Pixels) -> Any:
        """Begin to copy an array to the device, and return the device's own array; used by `OnDevice`."""
        held = self._upload(array)
        self.bytes_up += array.nbytes
        return held

    def keep(self, stack: OnDevice) -> None:
        """Take note of a stack that lies on the device."""
        with self._noting:
            self._stacks.add(stack)

    def make_room(self, but: Held) -> bool:
        """Drop what is in the memory of the machine, too, such as stacks that were sent ahead; tells whether any was.

        Parameters
        ----------
        but
            A stack that is needed now.
        """
        with self._noting:
            stacks = list(self._stacks)
        dropped = [stack.leave() for stack in stacks if stack is not but and stack.has_copy]
        self.trim()
        return any(dropped)

    def download(self, held: Any) -> Pixels:
        """Copy what the device holds to the machine, once it is made; used by `OnDevice`."""
        array = self._download(held)
        self.bytes_down += array.nbytes
        return array

    @abstractmethod
    def _upload(self, array: Pixels) -> Any: ...

    @abstractmethod
    def _download(self, held: Any) -> Pixels: ...

    @abstractmethod
    def run(self, kernel: Callable[[], Any], inputs: Sequence[Any], need_bytes: int) -> Any:
        """Run a kernel once its inputs are there; may return before it has ended.

        Parameters
        ----------
        kernel
            Takes nothing and returns arrays of the device.
        inputs
            Arrays of the device that it reads.
        need_bytes
            Memory that it is expected to use beside them.
        """

    @abstractmethod
    def is_held(self, value: object) -> bool:
        """Tell whether a value is an array of the device."""

    @abstractmethod
    def stack(self, planes: Sequence[Any]) -> Any:
        """Join planes of the device to a stack."""

    @abstractmethod
    def concatenate(self, parts: Sequence[Any]) -> Any:
        """Join stacks of the device along their first axis."""

    @abstractmethod
    def release(self, held: Any) -> None:
        """Take note that an array is no longer used; what reads it may still go on."""

    @abstractmethod
    def trim(self) -> None:
        """Give back memory that is only kept for later."""

    @abstractmethod
    def synchronise(self) -> None:
        """Wait until the device has nothing to do."""

    @property
    @abstractmethod
    def free_bytes(self) -> int:
        """Memory that is free now."""

    def take_notices(self) -> tuple[str, ...]:
        """Give what the user should know, and forget it."""
        told, self.notices = tuple(self.notices), []
        return told


class OnDevice:
    """A stack, or some planes of one, that lies on a device; comes down when something takes it as an array.

    Parameters
    ----------
    device
        Where it lies.
    held
        The device's own array.
    copy
        The same in the memory of the machine, where it is there.
    part_of
        The stack of which it is a part, which lives as long as this, and its place in it.
    """

    __slots__ = ("__weakref__", "_copy", "_held", "_part_of", "device", "dtype", "shape")

    def __init__(
        self, device: Device, held: Any, copy: Pixels | None = None, part_of: tuple[OnDevice, Any] | None = None
    ) -> None:
        self.device = device
        self.shape: tuple[int, ...] = tuple(held.shape)
        """As NumPy's."""
        self.dtype: np.dtype[Any] = held.dtype
        """As NumPy's."""
        self._held = held
        self._copy = copy
        self._part_of = part_of
        if part_of is None:
            device.keep(self)

    def __del__(self) -> None:
        self._release()

    @property
    def ndim(self) -> int:
        """As NumPy's."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """As NumPy's."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def has_copy(self) -> bool:
        """Whether it is in the memory of the machine, too."""
        return self._copy is not None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> OnDevice:
        copy = None if self._copy is None else self._copy[index]
        return OnDevice(self.device, self.held()[index], copy, (self, index))

    def __iter__(self) -> Iterator[OnDevice]:
        return (self[index] for index in range(len(self)))

    def held(self) -> Any:
        """Return the device's own array; sends it there again if it has left."""
        if self._held is None:
            assert self._copy is not None
            self._held = self.device.copied(self._copy)
        return self._held

    def host(self) -> Pixels:
        """Return it in the memory of the machine; copies it once."""
        if self._copy is None and self._part_of is not None:
            whole, index = self._part_of
            self._copy = whole.host()[index]  # the other parts are asked for, too
        if self._copy is None:
            array = self.device.download(self._held)
            array.flags.writeable = False
            self._copy = array
        return self._copy

    def leave(self) -> bool:
        """Leave the device for the memory of the machine; tells whether it was there."""
        if self._held is None:
            return False
        self.host()
        self._release()
        self._held = None
        return True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return np.array(self.host(), dtype=dtype, copy=copy)

    def _release(self) -> None:
        if self._part_of is None and self._held is not None:
            with suppress(DeviceLostError):
                self.device.release(self._held)


Held: TypeAlias = "Pixels | OnDevice"
"""A stack, wherever it lies."""


def on_host(stack: Any) -> Pixels:
    """Return a stack in the memory of the machine."""
    array: Pixels = stack.host() if isinstance(stack, OnDevice) else stack
    return array


def stacked(planes: Sequence[Held]) -> Held:
    """Join planes ``(Y, X)`` to a stack, on the device where all of them lie there."""
    first = planes[0]
    if len(planes) == 1:
        return first[None]
    if isinstance(first, OnDevice) and all(isinstance(plane, OnDevice) for plane in planes):
        device = first.device
        try:
            arrays = [plane.held() for plane in planes if isinstance(plane, OnDevice)]
            return OnDevice(device, device.run(lambda: device.stack(arrays), arrays, sum(a.nbytes for a in arrays)))
        except DeviceMemoryError:
            pass  # they are joined in the memory of the machine, and go up again in parts
    return np.stack([on_host(plane) for plane in planes])


def closed(stack: Held) -> None:
    """Keep functions from changing a stack in the memory of the machine; a kernel gets one of its own."""
    if isinstance(stack, np.ndarray):
        stack.flags.writeable = False
