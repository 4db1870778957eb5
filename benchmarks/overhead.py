"""CPU that goes into anything but the functions: does it grow with the plate, and how does it stand beside OpenHCS."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.peer import peer_python
from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import call
from benchmarks.report import report

GOALS = {"cpu_per_plane_growth": ("<=", 1.2), "vs_openhcs": (">=", 50)}
_LEAST_CPU_S = 0.01


def _shape(wells: int) -> PlateShape:
    return PlateShape(wells=wells, sites=4, channels=2, z=3, size=64)


def _cpu(answer: dict[str, Any]) -> float:
    """Return what this project took to compile and run."""
    return float(answer["compile_cpu_s"] + answer["run_cpu_s"])


def growth(large: int, small: int, repeats: int) -> dict[str, float]:
    """Compare the CPU a plane of two plates; what a plate of one well takes is the start-up."""
    sizes = {"large": _shape(large), "small": _shape(small), "least": _shape(1)}
    rounds: dict[str, list[float]] = {name: [] for name in sizes}
    for _ in range(repeats):
        for name, shape in sizes.items():
            rounds[name].append(_cpu(call("benchmarks.ours", "standard", plate_folder(shape), "--warm")))
    cpu = {name: statistics.median(values) for name, values in rounds.items()}
    least = sizes["least"].planes
    a_plane = {n: (cpu[n] - cpu["least"]) / (sizes[n].planes - least) for n in ("large", "small")}
    for name, shape in sizes.items():
        print(f"  {shape.planes} planes: {cpu[name]:.2f} s of CPU")
    return {
        "cpu_per_plane_growth": a_plane["large"] / a_plane["small"],
        "cpu_ms_per_plane": a_plane["large"] * 1e3,
    }


def beside_openhcs(wells: int, repeats: int) -> dict[str, float]:
    """Compare the CPU beyond the functions' own; from both goes what they take for one well, which is start-up."""
    python = peer_python()
    whole, least = plate_folder(_shape(wells)), plate_folder(_shape(1))
    rounds: dict[str, list[float]] = {"openhcs": [], "ours": [], "functions": []}
    for _ in range(repeats):
        used: dict[str, list[float]] = {name: [] for name in rounds}
        for folder in (whole, least):
            used["openhcs"].append(call("benchmarks.peer", "inline", folder, python=python)["cpu_s"])
            used["ours"].append(_cpu(call("benchmarks.ours", "peer", folder, "--warm", python=python)))
            used["functions"].append(call("benchmarks.peer", "functions", folder, python=python)["cpu_s"])
        for name, (most, some) in used.items():
            rounds[name].append(most - some)
    cpu = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"  {_shape(wells).planes} planes: " + ", ".join(f"{name} {value:.2f} s" for name, value in cpu.items()))
    ours = cpu["ours"] - cpu["functions"]
    return {
        # What cannot be told from nothing counts as a hundredth of a second.
        "vs_openhcs": (cpu["openhcs"] - cpu["functions"]) / max(ours, _LEAST_CPU_S),
        "overhead_seconds": ours,
        "openhcs_overhead_seconds": cpu["openhcs"] - cpu["functions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: shows that it runs")
    options = parser.parse_args()
    figures = growth(*((16, 4, 1) if options.quick else (256, 64, 5)))
    figures |= beside_openhcs(*((3, 1) if options.quick else (16, 3)))
    report("overhead", figures, GOALS)


if __name__ == "__main__":
    main()
