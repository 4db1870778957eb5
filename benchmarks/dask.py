"""How a run on two Dask workers stands beside the same run with two workers of the local executor."""

from __future__ import annotations

import argparse

from benchmarks.plates import FIELDS_96, PlateShape, plate_folder
from benchmarks.processes import Arm, wait_until_quiet
from benchmarks.report import median_ratio, report

GOALS = {"vs_local": (">=", 0.8)}


def fields(shape: PlateShape, repeats: int, wait_s: float) -> dict[str, float]:
    """Do the 96 fields of 20 ms in turn on both."""
    folder = plate_folder(shape)
    arms = {name: Arm("benchmarks.field_arms", name, folder) for name in ("ours", "dask")}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    try:
        for repeat in range(repeats + 1):
            answers = {}
            for name, arm in arms.items():
                wait_until_quiet(longest_s=wait_s)
                answers[name] = arm.ask()
            if answers["ours"]["objects"] != answers["dask"]["objects"]:
                raise RuntimeError(f"local and Dask found different objects: {answers}")
            times = ", ".join(f"{name} {answer['seconds']:.2f} s" for name, answer in answers.items())
            print(f"  {'first' if repeat == 0 else f'round {repeat}'}: {times}", flush=True)
            for name, answer in answers.items():
                seconds[name].append(answer["seconds"])
    finally:
        for arm in arms.values():
            arm.__exit__(None, None, None)
    return {
        "vs_local": median_ratio(seconds["ours"][1:], seconds["dask"][1:]),
        "vs_local_first_run": seconds["ours"][0] / seconds["dask"][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: shows that it runs")
    parser.add_argument("--repeats", type=int, help="rounds")
    parser.add_argument(
        "--wait", type=float, default=60, help="longest wait for quiet cores before each measurement, s"
    )
    options = parser.parse_args()
    shape = PlateShape(4, 2, 2, 1, 540) if options.quick else FIELDS_96
    print(f"{shape.wells * shape.sites} fields of {shape.channels} x {shape.size} x {shape.size}, two Dask workers")
    report("dask", fields(shape, options.repeats or (1 if options.quick else 7), options.wait), GOALS)


if __name__ == "__main__":
    main()
