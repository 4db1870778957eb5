"""A GPU that is only played: arrays of the machine, whose bytes are counted as a device's would be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openhcs_jupyter import topology
from openhcs_jupyter.engine.devices.base import Device, DeviceLostError, DeviceMemoryError, Pixels


class SimulatedDevice(Device):
    """Runs kernels with NumPy and SciPy; memory runs out, and the device is lost, as its description says.

    Parameters
    ----------
    described
        From a topology whose GPU says ``simulated``.
    """

    def __init__(self, described: topology.Device) -> None:
        super().__init__(described)
        assert described.simulated is not None
        self._played = described.simulated
        self._room = described.memory_free_bytes - self._played.taken_bytes
        self._used = 0
        self._uploads = 0
        self._held: dict[int, Any] = {}
        self._lock = threading.RLock()

    def _upload(self, array: Pixels) -> Any:
        with self._lock:
            self._check_lost()
            self._uploads += 1
            return self._hold(np.array(array))

    def _download(self, held: Any) -> Pixels:
        with self._lock:
            self._check_lost()
            return np.array(held)

    def run(self, kernel: Callable[[], Any], inputs: Sequence[Any], need_bytes: int) -> Any:  # noqa: ARG002 - the interface has it
        """Run a kernel at once."""
        with self._lock:
            self._check_lost()
            if self._used + need_bytes > self._room:
                raise DeviceMemoryError(f"{need_bytes} bytes for a kernel")
            result = kernel()
            for value in result if isinstance(result, tuple) else (result,):
                if self.is_held(value):
                    self._hold(value)
            return result

    def is_held(self, value: object) -> bool:
        """Tell whether a value is an array."""
        return isinstance(value, np.ndarray)

    def stack(self, planes: Sequence[Any]) -> Any:
        """Join planes."""
        return np.stack(planes)

    def concatenate(self, parts: Sequence[Any]) -> Any:
        """Join stacks."""
        return np.concatenate(parts)

    def release(self, held: Any) -> None:
        """Count the bytes of an array as free."""
        with self._lock:
            if self._held.pop(id(held), None) is not None:
                self._used -= held.nbytes

    def trim(self) -> None:
        """Do nothing: there is no pool."""

    def synchronise(self) -> None:
        """Do nothing: all is done at once."""

    @property
    def free_bytes(self) -> int:
        """What is left of the memory that the description tells."""
        return self._room - self._used

    def _hold(self, array: Any) -> Any:
        if id(array) not in self._held:
            if self._used + array.nbytes > self._room:
                raise DeviceMemoryError(f"{array.nbytes} bytes for an array")
            self._used += array.nbytes
            self._held[id(array)] = array
        return array

    def _check_lost(self) -> None:
        if self._played.lost_after is not None and self._uploads >= self._played.lost_after:
            raise DeviceLostError("it fell off the bus, as its description wants")
