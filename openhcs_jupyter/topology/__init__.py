"""What a machine offers to a run: cores, memory, NUMA nodes and GPUs, discovered here or read from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.topology.discovery import discover, find_memory
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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "discovery": ["discover", "find_memory"],
        "gpus": ["discover_gpus"],
        "model": [
            "Device",
            "Gpu",
            "Link",
            "MigSlice",
            "NumaNode",
            "Simulation",
            "Topology",
            "load_topology",
            "save_topology",
        ],
    },
)
