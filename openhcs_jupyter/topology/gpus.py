"""Discovers NVIDIA GPUs through NVML: memory, MIG slices, compute capability, place on the bus, neighbours, cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from openhcs_jupyter.topology.model import Gpu, Link, MigSlice

T = TypeVar("T")
_WORD = 64
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def discover_gpus(core_ids: Collection[int] = (), root: Path = Path("/")) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Find the GPUs that this process may use, and what is amiss with others.

    Without the package nvidia-ml-py (of the extra ``gpu``) or without NVIDIA's driver there are none.
    ``CUDA_VISIBLE_DEVICES`` hides GPUs here as it does from CUDA; its numbers count in the order of the bus.

    Parameters
    ----------
    core_ids
        Ids of the cores that the process may use; empty where the system does not tell.
    root
        Where ``sys`` lies.
    """
    try:
        import pynvml
    except ImportError:
        return (), ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)
        return (), (() if isinstance(error, absent) else (f"NVIDIA's driver cannot be asked about GPUs: {error}",))
    try:
        return _Nvml(pynvml, core_ids, root).gpus()
    finally:
        pynvml.nvmlShutdown()


class _Nvml:
    """Asks NVML, which is open, about every GPU."""

    def __init__(self, nvml: Any, core_ids: Collection[int], root: Path) -> None:
        self._nvml = nvml
        self._core_ids = core_ids
        self._root = root

    def gpus(self) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        notes: list[str] = []
        found: list[tuple[Any, Gpu]] = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                gpu = self._gpu(handle)
                if self._is_split(handle) and not gpu.mig:
                    notes.append(f"{gpu.name} {gpu.uuid} is in MIG mode and has no slice that could be used")
                else:
                    found.append((handle, gpu))
            except self._nvml.NVMLError as error:
                notes.append(f"GPU {index} of the driver cannot be used: {error}")
        shown = {gpu.uuid: gpu for gpu in visible([gpu for _, gpu in found])}
        seen = [(handle, shown[gpu.uuid]) for handle, gpu in found if gpu.uuid in shown]
        linked = [msgspec.structs.replace(gpu, links=tuple(self._links(handle, gpu, seen))) for handle, gpu in seen]
        return tuple(linked), tuple(notes)

    def _gpu(self, handle: Any) -> Gpu:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        address = _bus_id(nvml.nvmlDeviceGetPciInfo(handle))
        return Gpu(
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            memory_bytes=memory.total,
            memory_free_bytes=memory.free,
            compute_capability=self._ask(nvml.nvmlDeviceGetCudaComputeCapability, handle),
            pcie=address,
            numa_node=self._numa_node(address),
            cores=tuple(self._cores(handle)),
            mig=tuple(self._slices(handle)),
        )

    def _is_split(self, handle: Any) -> bool:
        mode = self._ask(self._nvml.nvmlDeviceGetMigMode, handle)
        return mode is not None and mode[0] == self._nvml.NVML_DEVICE_MIG_ENABLE

    def _slices(self, handle: Any) -> Iterator[MigSlice]:
        nvml = self._nvml
        if not self._is_split(handle):
            return
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            part = self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
            if part is None:
                continue  # places for slices that were not made
            memory = nvml.nvmlDeviceGetMemoryInfo(part)
            yield MigSlice(
                uuid=nvml.nvmlDeviceGetUUID(part),
                profile=nvml.nvmlDeviceGetName(part).rpartition("MIG ")[2],
                memory_bytes=memory.total,
                memory_free_bytes=memory.free,
            )

    def _cores(self, handle: Any) -> Iterator[int]:
        """Name the cores near a GPU that the process may use."""
        words = max(1, -(-(max(self._core_ids, default=os.cpu_count() or 1) + 1) // _WORD))
        masks = self._ask(self._nvml.nvmlDeviceGetCpuAffinity, handle, words)
        for place, mask in enumerate(masks or ()):
            for bit in range(_WORD):
                core = place * _WORD + bit
                if mask >> bit & 1 and (not self._core_ids or core in self._core_ids):
                    yield core

    def _numa_node(self, address: str) -> int | None:
        try:
            node = int((self._root / "sys/bus/pci/devices" / address.lower() / "numa_node").read_text())
        except (OSError, ValueError):
            return None
        return node if node >= 0 else None

    def _links(self, handle: Any, gpu: Gpu, others: Sequence[tuple[Any, Gpu]]) -> Iterator[Link]:
        """Tell how a GPU reaches each of the others: by NVLink, straight or through switches, or over PCIe."""
        nvml = self._nvml
        kinds = {
            nvml.NVML_TOPOLOGY_INTERNAL: "board",
            nvml.NVML_TOPOLOGY_SINGLE: "switch",
            nvml.NVML_TOPOLOGY_MULTIPLE: "switches",
            nvml.NVML_TOPOLOGY_HOSTBRIDGE: "host-bridge",
            nvml.NVML_TOPOLOGY_NODE: "node",
        }
        straight, switched = self._lanes(handle)
        for other_handle, other in others:
            if other.uuid == gpu.uuid:
                continue
            lanes = straight.get(other.pcie or "", 0)
            if not lanes and switched:
                status = self._ask(nvml.nvmlDeviceGetP2PStatus, handle, other_handle, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
                lanes = switched if status == nvml.NVML_P2P_STATUS_OK else 0
            if lanes:
                yield Link(to=other.uuid, kind="nvlink", lanes=lanes)
                continue
            level = self._ask(nvml.nvmlDeviceGetTopologyCommonAncestor, handle, other_handle)
            yield Link(to=other.uuid, kind=kinds.get(level, "system"))  # type: ignore[arg-type]  # the table shows which

    def _lanes(self, handle: Any) -> tuple[dict[str, int], int]:
        """Count a GPU's NVLink connections by the other end's PCIe address, and those that end at switches."""
        nvml = self._nvml
        straight: dict[str, int] = {}
        switched = 0
        for link in range(nvml.NVML_NVLINK_MAX_LINKS):
            if self._ask(nvml.nvmlDeviceGetNvLinkState, handle, link) != 1:
                continue
            if self._ask(nvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link) == nvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                switched += 1
            elif (remote := self._ask(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)) is not None:
                address = _bus_id(remote)
                straight[address] = straight.get(address, 0) + 1
        return straight, switched

    def _ask(self, question: Callable[..., T], *args: Any) -> T | None:
        """Ask what not every GPU or driver answers."""
        try:
            return question(*args)
        except self._nvml.NVMLError:
            return None


def visible(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPUs, or slices of them, that ``CUDA_VISIBLE_DEVICES`` leaves to the process, in the same order."""
    text = os.environ.get(_VISIBLE)
    if text is None:
        return list(gpus)
    wanted: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        number = int(name) if name.lstrip("-").isdigit() else None
        if number is not None and not 0 <= number < len(gpus):
            break  # CUDA, too, stops at the first name that it does not know
        wanted.append(gpus[number].uuid if number is not None else name)
    shown: list[Gpu] = []
    for gpu in gpus:
        slices = tuple(part for part in gpu.mig if any(part.uuid.startswith(name) for name in wanted))
        if any(gpu.uuid.startswith(name) for name in wanted):
            shown.append(gpu)
        elif slices:
            shown.append(msgspec.structs.replace(gpu, mig=slices))
    return shown


def _bus_id(info: Any) -> str:
    """Write a PCIe address as the kernel does, in capitals: ``0000:3B:00.0``."""
    return f"{info.domain:04X}:{info.bus:02X}:{info.device:02X}.0"
