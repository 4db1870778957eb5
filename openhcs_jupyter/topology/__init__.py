"""What a machine offers to a run: cores, memory, NUMA nodes and GPUs, discovered here or read from a file."""

from __future__ import annotations

from openhcs_jupyter.topology.discover import discover
from openhcs_jupyter.topology.model import Gpu, Link, MigSlice, NumaNode, Topology, load_topology, save_topology

__all__ = ["Gpu", "Link", "MigSlice", "NumaNode", "Topology", "discover", "load_topology", "save_topology"]
