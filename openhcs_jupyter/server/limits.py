"""Bounds of a job: those that the kernel holds for each process, and those of all its processes together."""

from __future__ import annotations

import math
import resource

from openhcs_jupyter.server.processes import Usage
from openhcs_jupyter.server.settings import Limits

_GB = 10**9


def apply(limits: Limits) -> None:
    """Bound this process and all that it starts, for good."""
    bounds = {
        # Memory of its own; unlike the address space it does not count files that are mapped to be read.
        resource.RLIMIT_DATA: int(limits.memory_gb * _GB),
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_FSIZE: int(limits.file_gb * _GB),
        resource.RLIMIT_CPU: int(limits.cpu_hours * 3600),
    }
    for which, bound in bounds.items():
        if bound:
            _, hardest = resource.getrlimit(which)
            most = bound if hardest == resource.RLIM_INFINITY else min(bound, hardest)
            resource.setrlimit(which, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def memory_bytes(limits: Limits) -> float:
    """Return what the processes of a job may use together."""
    return limits.memory_gb * _GB or math.inf


def exceeded(limits: Limits, usage: Usage, seconds: float) -> str | None:
    """Say which bound the processes of a job have passed together; None if they keep all."""
    if usage.memory_bytes > memory_bytes(limits):
        return f"It used {usage.memory_bytes / _GB:.1f} GB of memory; {limits.memory_gb:g} GB are allowed."
    if limits.processes and usage.processes > limits.processes:
        return f"It had {usage.processes} processes; {limits.processes} are allowed."
    if limits.hours and seconds > limits.hours * 3600:
        return f"It ran longer than the {limits.hours:g} hours that are allowed."
    return None
