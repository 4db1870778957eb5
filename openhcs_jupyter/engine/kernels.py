"""Calls functions' kernels on a device: the stack whole, or in parts where the memory of the device is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openhcs_jupyter.compiler.plan import FunctionUse, PlannedStep
from openhcs_jupyter.engine.calls import StepError, describe, trace_of
from openhcs_jupyter.engine.devices.base import (
    Device,
    DeviceBrokenError,
    DeviceLostError,
    DeviceMemoryError,
    Held,
    OnDevice,
    on_host,
)
from openhcs_jupyter.pipeline.chains import BoundCall
from openhcs_jupyter.pipeline.contracts import kernel_of


def goes_up(steps: Sequence[PlannedStep], channel: str) -> bool:
    """Tell whether the first function of some steps that takes a channel runs on a GPU."""
    for step in steps:
        if step.kind != "table" and channel in step.channels:
            chain = step.chains.get(channel) or next(iter(step.chains.values()))
            return chain[0].memory == "cupy"
    return False


class Kernels:
    """The kernels of one worker; remembers how many planes at a time the device had room for.

    Parameters
    ----------
    device
        Where they run.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._batches: dict[tuple[int, str], int] = {}

    def ahead(self, stack: Any) -> Any:
        """Begin to send a stack whose turn comes later; it stays where it is if the device has no room."""
        try:
            return self.device.upload(stack)
        except DeviceMemoryError:
            return stack

    def call(self, step: PlannedStep, call: BoundCall, use: FunctionUse, stack: Held, extra: dict[str, Any]) -> Any:
        """Call a function's kernel.

        Returns
        -------
        object
            What it returned: its image on the device, or in the memory of the machine where it was made in parts;
            everything else in the memory of the machine.

        Raises
        ------
        StepError
            If the kernel raises anything, or the device has not the memory even for one plane.
        DeviceLostError, DeviceBrokenError
            If the device does.
        """
        key = (step.index, call.name)
        batch = min(self._batches.get(key, len(stack)), len(stack))
        made_room = False
        while True:
            try:
                if batch < len(stack):
                    return self._in_parts(step, call, use, on_host(stack), extra, batch)
                return self._whole(step, call, use, stack, extra)
            except DeviceMemoryError as error:
                if not made_room and self.device.make_room(stack):
                    made_room = True
                    continue
                if not call.contract.by_plane or batch == 1:
                    raise StepError(step.index, self._too_large(call, stack, batch)) from error
                smaller = (batch + 1) // 2
                self.device.notices.append(
                    f"{self.device.name} ran out of memory in {call.name}: it now takes {_planes(smaller)} at a time "
                    f"instead of {batch}"
                )
                batch = self._batches[key] = smaller
                if isinstance(stack, OnDevice):
                    stack.leave()

    def _whole(self, step: PlannedStep, call: BoundCall, use: FunctionUse, stack: Held, extra: dict[str, Any]) -> Any:
        on_device = stack if isinstance(stack, OnDevice) else self.device.upload(stack)
        return self._settled(call, self._run(step, call, use, on_device, extra))

    def _in_parts(
        self, step: PlannedStep, call: BoundCall, use: FunctionUse, stack: Any, extra: dict[str, Any], batch: int
    ) -> Any:
        """Pass a stack through in parts: while one is computed, the next is on its way."""
        results: list[tuple[Any, ...]] = []
        coming: Any = stack[:batch]
        for start in range(0, len(stack), batch):
            part = coming if isinstance(coming, OnDevice) else self.device.upload(coming)
            coming = stack[start + batch : start + 2 * batch]
            if len(coming):
                coming = self.ahead(coming)
            result = self._settled(call, self._run(step, call, use, part, extra))
            results.append(tuple(map(on_host, result if isinstance(result, tuple) else (result,))))
            several = isinstance(result, tuple)
        joined = tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
        return joined if several else joined[0]

    def _run(self, step: PlannedStep, call: BoundCall, use: FunctionUse, stack: OnDevice, extra: dict[str, Any]) -> Any:
        found = kernel_of(call.function, "cupy")
        assert found is not None
        given = {
            name: self.device.upload(value) if isinstance(value, np.ndarray) else value for name, value in extra.items()
        }
        inputs = [stack.held(), *(value.held() for value in given.values() if isinstance(value, OnDevice))]
        own = {name: value.held() if isinstance(value, OnDevice) else value for name, value in given.items()}
        params = {name: self._param(value) for name, value in call.params.items()}
        try:
            return self.device.run(
                lambda: found.function(inputs[0], **params, **own), inputs, int(use.need * stack.nbytes)
            )
        except (DeviceMemoryError, DeviceLostError, DeviceBrokenError):
            raise
        except Exception as error:  # noqa: BLE001 - a user's kernel may raise anything
            raise StepError(step.index, describe(error), trace_of(error)) from None

    def _param(self, value: Any) -> Any:
        """Send an array that is a parameter of a step to the device."""
        return self.device.copied(value) if isinstance(value, np.ndarray) else value

    def _settled(self, call: BoundCall, result: Any) -> Any:
        """Leave the image that a kernel returned on the device, and bring everything else down."""
        values = result if isinstance(result, tuple) else (result,)
        stacks = tuple(OnDevice(self.device, value) if self.device.is_held(value) else value for value in values)
        image = 0 if call.contract.kind == "measure" else 1
        settled = stacks[:image] + tuple(map(on_host, stacks[image:]))
        return settled if isinstance(result, tuple) else settled[0]

    def _too_large(self, call: BoundCall, stack: Held, batch: int) -> str:
        size = f"{_planes(len(stack))} of {stack.shape[1]} x {stack.shape[2]}"
        why = "even plane by plane" if batch == 1 and call.contract.by_plane else "and it takes them together"
        return (
            f"{self.device.name} has not the memory for {call.name} on {size}, {why}; take --device cpu, or "
            "a device with more memory"
        )


def _planes(count: int) -> str:
    return f"{count} plane{'s' * (count != 1)}"
