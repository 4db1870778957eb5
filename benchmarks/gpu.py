"""``python -m benchmarks.gpu``: how well reading, copies and kernels go on beside each other on a GPU.

`overlap_efficiency` is the throughput of a run on one GPU, divided by the bound that the slowest of its parts sets:
reading planes, host to device, kernels, device to host, each timed alone on the same stacks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.report import report
from openhcs_jupyter import Step, compile, connect, discover, functions, run
from openhcs_jupyter.engine.devices.base import Device, OnDevice
from openhcs_jupyter.engine.devices.opening import open_device
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline.contracts import kernel_of
from openhcs_jupyter.repository import Repository
from openhcs_jupyter.repository.embedded.synthetic import DEMO, write_plate
from openhcs_jupyter.topology import Gpu, Simulation, Topology

GOALS = {"overlap_efficiency": (">=", 0.8)}
CHAIN: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (functions.percentile_normalize, {}),
    (functions.gaussian_blur, {"sigma": 2.0}),
    (functions.top_hat, {"radius": 15}),
    (functions.max_projection, {}),
]


def why_not(topology: Topology) -> str | None:
    """Say why there is nothing to measure."""
    if not topology.gpus:
        return "this machine has no NVIDIA GPU"
    return "CuPy is not installed" if find_spec("cupy") is None else None


def played() -> Topology:
    """Describe this machine with one GPU that is only played, to try the script."""
    memory = 4 << 30
    gpu = Gpu(uuid="GPU-0", name="simulated", memory_bytes=memory, memory_free_bytes=memory, simulated=Simulation())
    return msgspec.structs.replace(discover(), gpus=(gpu,))


def seconds(work: Callable[[], object], device: Device, repeats: int = 3) -> float:
    """Return the shortest time of some work, after one round that is not timed."""
    best = float("inf")
    for repeat in range(repeats + 1):
        device.synchronise()
        begin = time.perf_counter()
        work()
        device.synchronise()
        if repeat:
            best = min(best, time.perf_counter() - begin)
    return best


def parts(repository: Repository, plate_id: int, topology: Topology) -> dict[str, float]:
    """Time each part alone, in seconds a stack."""
    plate = repository.plate(plate_id)
    device = open_device(topology.devices[0])
    images = [field.images[0] for _, field in plate.fields()][:8]

    def read() -> list[Any]:
        stacks = []
        for image in images:
            with repository.open(image) as opened:
                layout = image.layout
                stacks += [
                    np.stack([opened.plane(0, c, z) for z in range(layout.size_z)]) for c in range(layout.size_c)
                ]
        return stacks

    stacks = read()
    count = len(stacks)
    there: Sequence[OnDevice] = [device.upload(stack) for stack in stacks]

    def kernels() -> list[Any]:
        made = []
        for stack in there:
            array = stack.held()
            for function, params in CHAIN:
                found = kernel_of(function, "cupy")
                assert found is not None
                array = device.run(lambda f=found, a=array, p=params: f.function(a, **p), [array], 0)
            made.append(array)
        return made

    results = kernels()
    found = {
        "read": seconds(read, device),
        "h2d": seconds(lambda: [device.upload(stack) for stack in stacks], device),
        "compute": seconds(kernels, device),
        "d2h": seconds(lambda: [device.download(result) for result in results], device),
    }
    return {name: taken / count for name, taken in found.items()}


def main() -> None:
    """Measure, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=8, help="of each of 12 wells")
    parser.add_argument("--size", type=int, default=2160, help="side of a plane in pixels")
    parser.add_argument("--simulated", action="store_true", help="try the script on a GPU that is only played")
    arguments = parser.parse_args()
    topology = played() if arguments.simulated else discover()
    reason = None if arguments.simulated else why_not(topology)
    if reason is not None:
        print(f"Nothing was measured: {reason}.")
        report("gpu", {}, GOALS)
        return
    with tempfile.TemporaryDirectory() as folder:
        side = max(1, int(arguments.fields**0.5))
        spec = msgspec.structs.replace(
            DEMO, name="gpu", grid=(side, max(1, arguments.fields // side)), size=arguments.size, cells_per_field=20
        )
        written = write_plate(Path(folder) / "gpu", spec)
        with connect(str(Path(folder) / "repository")) as repository:
            plate_id = repository.import_plate(written).id  # type: ignore[attr-defined]  # connect gives the embedded one
            alone = parts(repository, plate_id, topology)
            steps = [Step(function, params) for function, params in CHAIN[:-1]] + [Step(CHAIN[-1][0], save=True)]
            plan = compile(Pipeline(steps, "gpu"), repository.plate(plate_id), topology, device="gpu:0")
            rates = []
            for _ in range(3):
                begin = time.perf_counter()
                done = run(plan, force=True).result()
                ended = [event.time for event in done.events(follow=False) if isinstance(event, UnitDone)]
                stacks = len(ended) * len(plan.channels)
                # The first units are left out: they wait for CUDA and for kernels that are compiled once.
                warm = sorted(ended)[len(ended) // 4 :]
                rates.append((len(warm) - 1) * len(plan.channels) / (warm[-1] - warm[0]))
                print(f"  {stacks} stacks in {time.perf_counter() - begin:.2f} s, warm {rates[-1]:.1f} a second")
    print(f"  on {topology.devices[0].name}; alone, in ms a stack: ", end="")
    print(", ".join(f"{name} {1e3 * taken:.2f}" for name, taken in alone.items()))
    bound = 1 / max(alone.values())
    figures = {"overlap_efficiency": sorted(rates)[1] / bound, "stacks_per_s": sorted(rates)[1]}
    if arguments.simulated:
        print("  The GPU was simulated: these figures are no figures.")
        figures = {}
    report("gpu", figures, GOALS)


if __name__ == "__main__":
    main()
