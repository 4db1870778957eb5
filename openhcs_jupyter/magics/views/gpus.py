"""How GPUs look in a notebook and in a terminal: those of a machine, and what a plan does on them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.render import Grid, Rendered, count_text, grid, indented, size_text, some

if TYPE_CHECKING:
    from openhcs_jupyter.compiler import ExecutionPlan
    from openhcs_jupyter.topology import Gpu, Topology

_NEAR = {
    "nvlink": "NVLink",
    "board": "one board",
    "switch": "one PCIe switch",
    "switches": "several PCIe switches",
    "host-bridge": "one host bridge",
    "node": "one NUMA node",
    "system": "across NUMA nodes",
}
_WITHOUT = "Runs compute on CPUs. With an NVIDIA GPU: pip install 'openhcs-jupyter[gpu]'."


def gpus_view(topology: Topology) -> Rendered:
    """Show the GPUs of a machine: memory, slices, place, nearest cores, and how they reach each other."""
    head = f"{topology.host}: {count_text(len(topology.gpus), 'GPU')}"
    notes = [f"Note: {note}" for note in topology.notes]
    if not topology.gpus:
        text = f"{head}. {_WITHOUT}"
        return Rendered("\n".join([text, *notes]), render.card(render.escape(text), map(render.faint, notes)))
    names = {device.uuid: device.id for device in topology.devices}
    rows: list[tuple[str, ...]] = []
    for gpu in topology.gpus:
        capability = ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else ""
        node = "" if gpu.numa_node is None else str(gpu.numa_node)
        place = (capability, gpu.pcie or "", node, _ranges(gpu.cores))
        played = " (simulated)" if gpu.simulated else ""
        sizes = (size_text(gpu.memory_bytes), size_text(gpu.memory_free_bytes))
        rows.append((names.get(gpu.uuid, ""), f"{gpu.name}{played}", *sizes, *place, gpu.uuid))
        rows += [
            (
                names[part.uuid],
                f"  slice {part.profile}",
                size_text(part.memory_bytes),
                size_text(part.memory_free_bytes),
                *[""] * 4,
                part.uuid,
            )
            for part in gpu.mig
        ]
    table = grid(["device", "name", "memory", "free", "capability", "PCIe", "NUMA", "near cores", "UUID"], rows)
    links = _links(topology)
    lines = [f"{head}.", *indented(table.text)]
    body = [table.markup]
    if links is not None:
        lines += ["", *indented(links.text)]
        body.append(links.markup)
    lines += [f"  {note}" for note in notes]
    body += [render.faint(note) for note in notes]
    return Rendered("\n".join(lines), render.card(render.strong(head), body), topology)


def _links(topology: Topology) -> Grid | None:
    """Lay out how each GPU reaches the others."""
    if len(topology.gpus) < 2:
        return None
    ids = {device.uuid: device.id for device in topology.devices}
    names = []
    for gpu in topology.gpus:
        own = [ids[part.uuid] for part in gpu.mig or (gpu,)]
        names.append(own[0] if len(own) == 1 else f"{own[0]}-{own[-1].removeprefix('gpu:')}")
    rows = [
        (name, *(_near(gpu, other) for other in topology.gpus)) for name, gpu in zip(names, topology.gpus, strict=True)
    ]
    return grid(["from / to", *names], rows)


def _near(gpu: Gpu, other: Gpu) -> str:
    link = next((link for link in gpu.links if link.to == other.uuid), None)
    if link is None:
        return "-" if gpu.uuid == other.uuid else "?"
    return f"{_NEAR[link.kind]} x{link.lanes}" if link.lanes else _NEAR[link.kind]


def _ranges(cores: tuple[int, ...]) -> str:
    """Write numbers as the kernel does: ``0-3,8``."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][-1] + 1:
            parts[-1][1:] = [core]
        else:
            parts.append([core])
    return ",".join("-".join(map(str, part)) for part in parts)


def devices_grid(plan: ExecutionPlan) -> Grid:
    """Lay out what each GPU of a plan does, and how full it becomes."""
    counts = Counter(unit.device for unit in plan.units)
    most = {
        device.id: max(unit.device_bytes for unit in plan.units if unit.device == device.id) for device in plan.devices
    }
    rows = [
        (
            device.id,
            device.name + (" (simulated)" if device.simulated else ""),
            counts[device.id],
            f"{size_text(most[device.id])} of {size_text(device.memory_free_bytes)} free",
        )
        for device in plan.devices
    ]
    return grid(["device", "name", "units", "memory a unit"], rows)


def moves_text(plan: ExecutionPlan) -> list[str]:
    """Say what moves between the memories in each stage, one line for each transfer."""
    names = {step.index: step.name for step in plan.steps}
    lines = []
    for stage in plan.stages:
        for move in stage.transfers:
            way = "up to the GPU" if move.to == "cupy" else "down"
            why = {"kept": "its images are kept", "its outputs": "its outputs"}.get(move.why, f"for {move.why}")
            lines.append(f"{names[move.step]}: {some(move.channels, 4)} {way}, {why}")
    return lines
