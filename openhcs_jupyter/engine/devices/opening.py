"""Takes a device for this process; says which cannot be used here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from openhcs_jupyter import topology
from openhcs_jupyter.engine.devices.base import Device


def open_device(described: topology.Device) -> Device:
    """Take a device for this process, and keep the process on the cores near it.

    Raises
    ------
    DeviceLostError
        If it is not there, or CuPy is not.
    """
    if described.cores and hasattr(os, "sched_setaffinity"):
        near = os.sched_getaffinity(0) & set(described.cores)
        if near:
            os.sched_setaffinity(0, near)
    if described.simulated is not None:
        from openhcs_jupyter.engine.devices.simulated import SimulatedDevice

        return SimulatedDevice(described)
    # Before CuPy is imported: CUDA looks at it once.
    os.environ["CUDA_VISIBLE_DEVICES"] = described.uuid
    from openhcs_jupyter.engine.devices.cupy import CupyDevice

    return CupyDevice(described)


def missing(devices: Sequence[topology.Device]) -> str | None:
    """Say why these devices cannot be used on this machine, or None if they can."""
    real = [device for device in devices if device.simulated is None]
    if not real:
        return None
    gpus, _ = topology.discover_gpus()
    there = {gpu.uuid for gpu in gpus} | {part.uuid for gpu in gpus for part in gpu.mig}
    absent = [device.id for device in real if device.uuid not in there]
    if absent:
        names = " and ".join(dict.fromkeys(device.name for device in real if device.id in absent))
        return f"{', '.join(absent)} ({names}) {'is' if len(absent) == 1 else 'are'} not on this machine"
    if find_spec("cupy") is None:
        return "CuPy, which GPUs need, is not installed: pip install 'openhcs-jupyter[gpu]'"
    return None
