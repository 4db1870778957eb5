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


class Simulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Makes a GPU one that is only played: its memory is the host's, its kernels run on a core, its bytes are counted.

    For trying plans, transfers and failures on a machine that has no GPU.
    """

    taken_bytes: _Count = 0
    """Memory that others took since the plan was made, so that the device runs out of it earlier."""
    lost_after: int | None = None
    """Falls off the bus at the upload that follows so many."""


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
    simulated: Simulation | None = None
    """None: it is a real one."""


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
    """Those that the process may use, in the order of their PCIe addresses."""
    notes: tuple[str, ...] = ()
    """What was found amiss: a GPU that fell off the bus, a driver that cannot be asked."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs, and the slices of those that are split, as runs use them."""
        found: list[Device] = []
        for gpu in self.gpus:
            for part in gpu.mig or (gpu,):
                name = f"{gpu.name} MIG {part.profile}" if isinstance(part, MigSlice) else gpu.name
                found.append(
                    Device(
                        id=f"gpu:{len(found)}",
                        uuid=part.uuid,
                        name=name,
                        memory_bytes=part.memory_bytes,
                        memory_free_bytes=part.memory_free_bytes,
                        cores=gpu.cores,
                        share=_share(part),
                        simulated=gpu.simulated,
                    )
                )
        return tuple(found)


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker process computes on: a whole GPU, or one slice of a split one."""

    id: str
    """``gpu:0``, ``gpu:1``, ... in the order of the topology."""
    uuid: str
    name: str
    memory_bytes: int
    memory_free_bytes: int
    cores: tuple[int, ...] = ()
    """Ids of the cores nearest to it."""
    share: float = 1.0
    """How much of a whole GPU it is."""
    simulated: Simulation | None = None


def _share(part: Gpu | MigSlice) -> float:
    """Read what share of a GPU a slice is from its profile: ``3g.40gb`` is three of seven."""
    sevenths = re.match(r"(\d)g", part.profile) if isinstance(part, MigSlice) else None
    return int(sevenths[1]) / 7 if sevenths else 1.0


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
