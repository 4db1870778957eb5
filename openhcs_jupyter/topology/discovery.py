"""Discovers what this process may use of this machine: affinity, cgroup quotas and limits, NUMA nodes, memory, GPUs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from openhcs_jupyter.topology.gpus import discover_gpus
from openhcs_jupyter.topology.model import NumaNode, Topology, load_topology

VARIABLE = "OPENHCS_TOPOLOGY"


def discover(root: Path = Path("/"), *, file: bool = True) -> Topology:
    """Find out what this process may use, or read it from the file that ``OPENHCS_TOPOLOGY`` names.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    file
        Whether a file may stand for the machine.

    Raises
    ------
    UsageError
        If ``OPENHCS_TOPOLOGY`` names a file that is not a topology.
    """
    if file and (named := os.environ.get(VARIABLE)):
        return load_topology(Path(named).expanduser())
    ids = _affinity()
    cores = len(ids) or os.cpu_count() or 1
    groups = list(_cgroups(root))
    for group in groups:
        if (quota := group.cpus()) is not None:
            cores = min(cores, max(1, int(quota)))
    total, free = _memory(groups)
    gpus, notes = discover_gpus(ids, root)
    return Topology(
        host=platform.node(),
        cores=cores,
        core_ids=ids,
        numa_nodes=tuple(_numa_nodes(root, frozenset(ids))),
        memory_bytes=total,
        memory_free_bytes=free,
        gpus=gpus,
        notes=notes,
    )


def find_memory(root: Path = Path("/")) -> tuple[int, int]:
    """Find out how many bytes of memory this process may use, and how many of them are free now."""
    return _memory(_cgroups(root))


def _memory(groups: Iterable[_Cgroup]) -> tuple[int, int]:
    import psutil  # slow to import, and most processes are told what they may use

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for group in groups:
        if (limit := group.memory_limit()) is not None and limit < memory.total:
            total = min(total, limit)
            free = min(free, max(0, limit - group.memory_used()))
    return total, min(free, total)


def _affinity() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return ()


class _Cgroup(NamedTuple):
    """One control group that holds this process, or an ancestor of it, as one hierarchy shows it."""

    folder: Path
    unified: bool
    """Version 2."""

    def cpus(self) -> float | None:
        """Return the CPU time a second that the group may use, or None where it is not limited."""
        if self.unified:
            quota, _, period = _text(self.folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(self.folder / "cpu.cfs_quota_us"), _text(self.folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
        return None

    def memory_limit(self) -> int | None:
        """Return the bytes that the group may use, or None where it is not limited."""
        limit = _text(self.folder / ("memory.max" if self.unified else "memory.limit_in_bytes"))
        return int(limit) if limit.isdigit() else None

    def memory_used(self) -> int:
        """Return the bytes that the group uses and cannot drop: file caches that are not in use leave first."""
        used = _text(self.folder / ("memory.current" if self.unified else "memory.usage_in_bytes"))
        idle = 0
        for line in _text(self.folder / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == ("inactive_file" if self.unified else "total_inactive_file"):
                idle = int(value)
        return max(0, int(used) - idle) if used.isdigit() else 0


def _cgroups(root: Path) -> Iterator[_Cgroup]:
    """Iterate over the control groups of this process and their ancestors, in every hierarchy that can limit it."""
    paths: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = group
    for mount in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = mount.partition(" - ")
        _, _, _, mounted, point = left.split(" ")[:5]
        kind, _, options = right.split(" ", 2)
        path: str | None = None
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup":
            limiting = [name for name in ("cpu", "memory") if name in options.split(",")]
            path = paths.get(limiting[0]) if limiting else None
        if path is None:
            continue
        top = root / point.lstrip("/")
        # Inside a container the mount may begin below the group's own path.
        below = path.removeprefix(mounted) if mounted != "/" else path
        folder = top / below.strip("/")
        if not folder.is_dir():
            folder = top
        while True:
            yield _Cgroup(folder, unified=kind == "cgroup2")
            if folder == top:
                break
            folder = folder.parent


def _numa_nodes(root: Path, ids: frozenset[int]) -> Iterator[NumaNode]:
    folders = (root / "sys/devices/system/node").glob("node[0-9]*")
    for folder in sorted(folders, key=lambda one: int(one.name[4:])):
        cores = tuple(core for core in _parse_list(_text(folder / "cpulist")) if core in ids)
        if cores:
            yield NumaNode(index=int(folder.name[4:]), cores=cores, memory_bytes=_node_memory(folder))


def _node_memory(folder: Path) -> int:
    for line in _text(folder / "meminfo").splitlines():
        words = line.split()
        if "MemTotal:" in words:
            return int(words[words.index("MemTotal:") + 1]) * 1024
    return 0


def _parse_list(text: str) -> Iterator[int]:
    """Read the kernel's lists of numbers: ``0-3,8``."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _text(path: Path) -> str:
    """Return what a file of the kernel says; nothing where this system has no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
