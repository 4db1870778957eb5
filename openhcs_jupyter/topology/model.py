"""The words of a topology, and its JSON file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from openhcs_jupyter.errors import UsageError

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Some: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class NumaNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cores and the memory that is near them."""

    index: _Count
    cores: tuple[int, ...]
    """Ids of its cores that the process may use."""
    memory_bytes: _Count


class MigSlice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of a GPU that is split: a device of its own to those who use it."""

    uuid: str
    profile: str
    """NVIDIA's name of its size, such as ``1g.10gb``."""
    memory_bytes: _Count
    memory_free_bytes: _Count


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a GPU reaches another one."""

    to: str
    """UUID of the other GPU."""
    kind: Literal["nvlink", "board", "switch", "switches", "host-bridge", "node", "system"]
    """From the nearest to the farthest: NVLink; one board; one PCIe switch, or several; one host bridge; one NUMA node;
    across NUMA nodes."""
    lanes: _Count = 0
    """NVLink connections between the two."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU of the machine."""

    uuid: str
    name: str
    memory_bytes: _Count
    memory_free_bytes: _Count
    compute_capability: tuple[int, int] | None = None
    """Major and minor, such as ``(9, 0)``."""
    pcie: str | None = None
    """PCIe address, such as ``0000:3B:00.0``."""
    numa_node: int | None = None
    cores: tuple[int, ...] = ()
    """Ids of the cores nearest to it that the process may use."""
    links: tuple[Link, ...] = ()
    mig: tuple[MigSlice, ...] = ()
    """Empty where the GPU is whole."""


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process may use of a machine."""

    host: str
    cores: _Some
    """How many cores the process may keep busy: those of its affinity, or fewer where a CPU quota allows less."""
    memory_bytes: _Some
    """Of the machine, or the limit set for the process where that is less."""
    memory_free_bytes: _Count
    core_ids: tuple[int, ...] = ()
    """Ids of the cores on which the process may run; empty where the system does not tell."""
    numa_nodes: tuple[NumaNode, ...] = ()
    """Those with cores that the process may use."""
    gpus: tuple[Gpu, ...] = ()


def load_topology(path: Path) -> Topology:
    """Read a topology from a JSON file.

    Raises
    ------
    UsageError
        If the file cannot be read or is not a topology; names the file and the field.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Topology)
    except OSError as error:
        raise UsageError(f"The topology file {path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{path} is not a topology: {_readable(str(error))}",
            "Write one with openhcs_jupyter.topology.save_topology(discover(), path) and change that.",
        ) from error


def save_topology(topology: Topology, path: Path) -> None:
    """Write a topology as a JSON file that `load_topology` and the variable ``OPENHCS_TOPOLOGY`` take."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(topology), indent=2) + b"\n")


def _readable(message: str) -> str:
    return re.sub(r"(.*) - at `\$\.?(.*)`$", r"field `\2`: \1", message)
