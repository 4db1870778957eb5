"""How long compiling takes: a full plate of 384 wells, and beside OpenHCS."""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.peer import peer_python
from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import answer, call
from benchmarks.report import median_ratio, report
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well

GOALS = {"seconds_69120_planes": ("<=", 0.5), "vs_openhcs": (">=", 100)}


def large_plate(wells: int, fields: int = 9, channels: int = 4, z: int = 5) -> Plate:
    """Make the value of a plate; it has no pixels, as compiling reads none."""
    layout = Layout(size_t=1, size_c=channels, size_z=z, size_y=2160, size_x=2160, dtype="uint16", pixel_size_um=0.65)

    def field(well: int, number: int) -> Field:
        image = well * fields + number
        return Field(
            id=image,
            number=number,
            images=(Image(id=image, kind="stack", layout=layout, version=f"{image:024x}"),),
            position_um=(1404.0 * (number // 3), 1404.0 * (number % 3)),
        )

    return Plate(
        id=1,
        name="large",
        repository="large",
        rows=16,
        columns=24,
        channels=tuple(Channel(name=f"C{c + 1}") for c in range(channels)),
        wells=tuple(
            Well(id=i + 1, row=i // 24, column=i % 24, fields=tuple(field(i, n) for n in range(1, fields + 1)))
            for i in range(wells)
        ),
    )


def once(wells: int) -> None:
    """Compile once, the first time in this process, and answer with the seconds."""
    from benchmarks.pipelines import quickstart_steps
    from openhcs_jupyter import Pipeline, compile, discover

    plate = large_plate(wells)
    steps = quickstart_steps(*(channel.name for channel in plate.channels[:2]))
    topology = discover()
    start = time.perf_counter()
    plan = compile(Pipeline(steps), plate, topology)
    answer(seconds=time.perf_counter() - start, units=len(plan.units))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, a smaller plate: shows that it runs")
    parser.add_argument("--once", type=int, metavar="WELLS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once is not None:
        once(options.once)
        return
    repeats = 1 if options.quick else 5
    folder = plate_folder(PlateShape(wells=4 if options.quick else 16, sites=4, channels=2, z=3, size=64))
    python = peer_python()
    large, ours, theirs = [], [], []
    for _ in range(repeats):
        large.append(call("benchmarks.compile", "--once", 24 if options.quick else 384)["seconds"])
        ours.append(call("benchmarks.ours", "peer", folder, "--compile", python=python)["compile_s"])
        theirs.append(call("benchmarks.peer", "compile", folder, python=python)["compile_s"])
    figures = {
        "seconds_69120_planes": statistics.median(large),
        "vs_openhcs": median_ratio(theirs, ours),
        "openhcs_seconds": statistics.median(theirs),
        "seconds": statistics.median(ours),
    }
    report("compile", figures, GOALS)


if __name__ == "__main__":
    main()
