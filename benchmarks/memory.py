"""Does a run's memory grow with the plate: anonymous and shared memory of all its processes, maps of files left out."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import CHECKOUT, SCRATCH, PeakMemory, environment, pin_threads
from benchmarks.report import report

GOALS = {"peak_growth": ("<=", 1.1)}


def peak(shape: PlateShape) -> int:
    """Run a plate in a fresh process and return the peak of its process tree's memory in bytes."""
    command = [sys.executable, "-m", "benchmarks.memory", "--run", str(plate_folder(shape))]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment())
    with PeakMemory(process.pid) as memory:
        status = process.wait()
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}")
    print(f"  {shape.wells} wells: {memory.bytes / 1e6:.0f} MB at the peak, {memory.looks} looks", flush=True)
    return memory.bytes


def run_plate(folder: Path) -> None:
    """Register, compile, run and save a plate."""
    from benchmarks import fields
    from openhcs_jupyter import compile, discover, run
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    place = tempfile.mkdtemp(prefix="memory-", dir=SCRATCH / "work")
    try:
        repository = EmbeddedRepository(place)
        plate = repository.plate(repository.import_plate(folder).id)
        plan = compile(fields.pipeline(plate), plate, discover(), save=True, workers=2)
        run(plan).result()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small plates, one repeat: shows that it runs")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        pin_threads()
        run_plate(options.run)
        return
    few, many, size, repeats = (2, 8, 256, 1) if options.quick else (12, 96, 1080, 3)
    small, large = (PlateShape(wells=n, sites=4, channels=2, z=1, size=size) for n in (few, many))
    peaks = [(peak(small), peak(large)) for _ in range(repeats)]
    figures = {
        "peak_growth": statistics.median(b / a for a, b in peaks),
        "peak_mb": statistics.median(b for _, b in peaks) / 1e6,
    }
    report("memory", figures, GOALS)


if __name__ == "__main__":
    main()
