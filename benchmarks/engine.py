"""How near the engine comes to what the cores can do, and how it stands beside Dask, a plain pool and OpenHCS."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.peer import peer_python
from benchmarks.plates import FIELDS_96, WELLS_16, PlateShape, plate_folder
from benchmarks.processes import Arm, call, wait_until_quiet
from benchmarks.report import median_ratio, report

GOALS = {
    "floor_efficiency": (">=", 0.90),
    "vs_distributed": (">=", 1.5),
    "vs_plain_pool": ("<=", 1.05),
    "vs_openhcs_best": (">=", 1.25),
    "vs_openhcs_default": (">=", 1.6),
    "vs_openhcs_standard": (">=", 8),
}


def fields(shape: PlateShape, repeats: int, wait_s: float) -> dict[str, float]:
    """Compare with the floor and with dask.distributed on units of 20 ms."""
    folder, python = plate_folder(shape), peer_python()
    names = ("floor", "ours", "distributed")
    arms = {name: Arm("benchmarks.field_arms", name, folder, python=python) for name in names}
    rounds: list[dict[str, dict[str, Any]]] = []
    try:
        for repeat in range(repeats + 1):
            answers = {}
            for name, arm in arms.items():
                wait_until_quiet(longest_s=wait_s)
                answers[name] = arm.ask()
            if answers["ours"]["objects"] != answers["distributed"]["objects"]:
                raise RuntimeError(f"ours and distributed found different objects: {answers}")
            floor = answers["floor"]
            print(
                f"  {'first' if repeat == 0 else f'round {repeat}'}: floor {floor['seconds']:.2f} s "
                f"(read {floor['read']:.2f}, compute {floor['compute']:.2f}, write {floor['write']:.2f}), "
                f"ours {answers['ours']['seconds']:.2f} s, distributed {answers['distributed']['seconds']:.2f} s",
                flush=True,
            )
            rounds.append(answers)
    finally:
        for arm in arms.values():
            arm.__exit__(None, None, None)
    seconds = {name: [one[name]["seconds"] for one in rounds[1:]] for name in names}
    first = rounds[0]
    return {
        "floor_efficiency": median_ratio(seconds["floor"], seconds["ours"]),
        "floor_efficiency_first_run": first["floor"]["seconds"] / first["ours"]["seconds"],
        "vs_distributed": median_ratio(seconds["distributed"], seconds["ours"]),
    }


def plate(shape: PlateShape, repeats: int, wait_s: float) -> dict[str, float]:
    """Compare with a plain pool and with OpenHCS on a plate of 16 wells, each in a fresh process."""
    folder, python = plate_folder(shape), peer_python()
    works: dict[str, tuple[Any, ...]] = {
        "ours": ("benchmarks.ours", "peer", folder),
        "ours again": ("benchmarks.ours", "peer", folder, "--warm"),
        "plain pool": ("benchmarks.peer", "plain", folder),
        "ours unprepared": ("benchmarks.ours", "peer", folder, "--unprepared"),
        "OpenHCS fork": ("benchmarks.peer", "fork", folder),
        "ours standard": ("benchmarks.ours", "standard", folder),
        "OpenHCS spawn": ("benchmarks.peer", "spawn", folder),
    }
    rounds: list[dict[str, dict[str, Any]]] = []
    for repeat in range(repeats):
        answers = {}
        for name, (module, *arguments) in works.items():
            wait_until_quiet(longest_s=wait_s)
            answers[name] = call(module, *arguments, python=python)
        rounds.append(answers)
        times = (f"{name} {one['total_s']:.2f} s ({one['cpu_s']:.1f} of CPU)" for name, one in answers.items())
        print(f"  round {repeat + 1}: {', '.join(times)}", flush=True)

    def seconds(name: str, key: str = "total_s") -> list[float]:
        return [one[name][key] for one in rounds]

    best = [min(pair) for pair in zip(seconds("OpenHCS fork"), seconds("OpenHCS spawn"), strict=True)]
    return {
        "vs_plain_pool": median_ratio(seconds("ours", "run_s"), seconds("plain pool")),
        "vs_plain_pool_unprepared": median_ratio(seconds("ours unprepared", "run_s"), seconds("plain pool")),
        "vs_plain_pool_second_run": median_ratio(seconds("ours again", "run_s"), seconds("plain pool")),
        "vs_openhcs_best": median_ratio(best, seconds("ours")),
        "vs_openhcs_default": median_ratio(seconds("OpenHCS spawn"), seconds("ours")),
        "vs_openhcs_standard": median_ratio(best, seconds("ours standard")),
        "openhcs_best_seconds": statistics.median(best),
        "standard_seconds": statistics.median(seconds("ours standard")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: shows that it runs")
    parser.add_argument("--only", choices=("fields", "plate"), help="one half of the figures")
    parser.add_argument("--repeats", type=int, help="rounds of each half")
    parser.add_argument(
        "--wait", type=float, default=60, help="longest wait for quiet cores before each measurement, s"
    )
    options = parser.parse_args()
    figures: dict[str, float] = {}
    if options.only != "plate":
        shape = PlateShape(4, 2, 2, 1, 540) if options.quick else FIELDS_96
        print(f"{shape.wells * shape.sites} fields of {shape.channels} x {shape.size} x {shape.size}")
        figures |= fields(shape, options.repeats or (1 if options.quick else 9), options.wait)
    if options.only != "fields":
        shape = PlateShape(2, 2, 2, 2, 256) if options.quick else WELLS_16
        print(f"{shape.wells} wells x {shape.sites} fields x {shape.channels} channels x {shape.z} z, {shape.size}^2")
        figures |= plate(shape, options.repeats or (1 if options.quick else 3), options.wait)
    report("engine", figures, GOALS)


if __name__ == "__main__":
    main()
