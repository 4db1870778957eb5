"""A driver for tests: the real nvidia-ml-py on a small library of ours, which tells of the GPUs of a topology."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from openhcs_jupyter.topology import Gpu, Topology

SAMPLES = Path(__file__).parent / "samples"
_LEVELS = {"board": 0, "switch": 10, "switches": 20, "host-bridge": 30, "node": 40, "system": 50}


class StubDriver:
    """A folder with ``libnvidia-ml.so.1`` and a ``sys``, to stand in for a machine's."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler to build the stub of NVIDIA's library with")
        self.folder = folder
        self.root = folder / "root"
        library = folder / "libnvidia-ml.so.1"
        source = Path(__file__).with_name("stub_nvml.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source], check=True)

    def install(self, gpus: Sequence[Gpu], *, lost: Sequence[int] = (), switched: bool = False) -> dict[str, str]:
        """Write what the library tells, and return the environment in which it does."""
        told: list[str] = []
        places = {gpu.uuid: index for index, gpu in enumerate(gpus)}
        for index, gpu in enumerate(gpus):
            major, minor = gpu.compute_capability or (0, 0)
            mask = sum(1 << core for core in gpu.cores)
            masks = f"{mask & (1 << 64) - 1:x} {mask >> 64:x}"
            lanes = max((link.lanes for link in gpu.links), default=0)
            address = (gpu.pcie or "").removesuffix(".0")
            facts = f"{major} {minor} {address} {masks} {int(bool(gpu.mig))} {int(index in lost)}"
            told.append(
                f"gpu {gpu.uuid} {gpu.memory_bytes} {gpu.memory_free_bytes} {facts} {lanes * switched} {gpu.name}"
            )
            for part in gpu.mig:
                sizes = f"{part.memory_bytes} {part.memory_free_bytes}"
                told.append(f"mig {index} {part.uuid} {sizes} {gpu.name} MIG {part.profile}")
            for link in gpu.links:
                if link.kind != "nvlink":
                    told.append(f"level {index} {places[link.to]} {_LEVELS[link.kind]}")
                elif not switched:
                    told.append(f"nvlink {index} {places[link.to]} {link.lanes}")
            node = self.root / "sys/bus/pci/devices" / (gpu.pcie or "").lower() / "numa_node"
            node.parent.mkdir(parents=True, exist_ok=True)
            node.write_text(f"{-1 if gpu.numa_node is None else gpu.numa_node}\n")
        (self.folder / "gpus.txt").write_text("\n".join(told) + "\n")
        return {
            **{name: value for name, value in os.environ.items() if name != "OPENHCS_TOPOLOGY"},
            "LD_LIBRARY_PATH": str(self.folder),
            "STUB_NVML": str(self.folder / "gpus.txt"),
        }

    def discovered(self, environment: dict[str, str], cores: Sequence[int] = ()) -> Topology:
        """Discover the GPUs in a process of its own, which loads the library."""
        code = (
            "import sys; from pathlib import Path; import msgspec\n"
            "from openhcs_jupyter.topology import Topology, discover_gpus\n"
            f"gpus, notes = discover_gpus({tuple(cores)!r}, Path({str(self.root)!r}))\n"
            "here = Topology(host='here', cores=1, memory_bytes=1, memory_free_bytes=0, gpus=gpus, notes=notes)\n"
            "sys.stdout.buffer.write(msgspec.json.encode(here))"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
        return msgspec.json.decode(done.stdout, type=Topology)
