"""What a machine offers to a run: cores, memory, NUMA nodes and GPUs, discovered here or read from a file."""

from __future__ import annotations

from openhcs_jupyter.topology.discover import discover, find_memory
from openhcs_jupyter.topology.gpus import discover_gpus
from openhcs_jupyter.topology.model import (
    Device,
    Gpu,
    Link,
    MigSlice,
    NumaNode,
    Simulation,
    Topology,
    load_topology,
    save_topology,
)

__all__ = [
    "Device",
    "Gpu",
    "Link",
    "MigSlice",
    "NumaNode",
    "Simulation",
    "Topology",
    "discover",
    "discover_gpus",
    "find_memory",
    "load_topology",
    "save_topology",
]
