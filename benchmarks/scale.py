"""A full plate from start to end: 384 wells, 2 fields, 2 channels of 2160 x 2160, beside 24 wells of the same."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import CHECKOUT, SCRATCH, PeakMemory, answer, environment, pin_threads, wait_until_quiet
from benchmarks.report import report

GOALS = {"planes": ("==", 1536), "peak_gb": ("<=", 4), "vs_small_rate": (">=", 0.95)}
FIELDS, CHANNELS = 2, 2
_PER_PLANE = 4
"""Bytes on the disk for each of the plate's: its files, the projections and labels that the run keeps, and room."""


def make_plate(rows: int, columns: int, size: int) -> Path:
    """Write a synthetic plate."""
    from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate, write_plate

    folder = SCRATCH / "scale" / f"{rows}x{columns}"
    cells = max(8, 600 * size * size // 2160**2)
    spec = SyntheticPlate(
        name="scale", rows=rows, columns=columns, grid=(1, FIELDS), size=size, slices=1, cells_per_field=cells
    )
    begin = time.perf_counter()
    write_plate(folder, spec)
    took = time.perf_counter() - begin
    print(f"  {rows * columns} wells written: {spec.pixel_bytes / 1e9:.1f} GB in {took:.0f} s", flush=True)
    return folder


def run_plate(folder: Path) -> None:
    """Register, compile and run the quickstart's pipeline; answer with seconds and planes."""
    from benchmarks.pipelines import quickstart_steps
    from openhcs_jupyter import Pipeline, compile, discover, run
    from openhcs_jupyter.compiler import Selection
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    steps = quickstart_steps()
    place = Path(tempfile.mkdtemp(prefix="scale-", dir=SCRATCH / "work"))
    try:
        # What a session pays once is not counted.
        warm = EmbeddedRepository(place / "warm")
        plate = warm.plate(warm.import_plate(folder).id)
        one = Selection(wells=(plate.wells[0].name,))
        run(compile(Pipeline(steps), plate, discover(), one, workers=2)).result()
        shutil.rmtree(place / "warm")
        begin = time.perf_counter()
        repository = EmbeddedRepository(place / "repository")
        plate = repository.plate(repository.import_plate(folder).id)
        done = run(compile(Pipeline(steps), plate, discover(), workers=2)).result()
        seconds = time.perf_counter() - begin
        wells = done.table("wells")
        assert len(wells) == len(plate.wells)
        read = sum(bool(unit.images) for unit in done.plan.units) * CHANNELS
        answer(seconds=seconds, planes=read)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def measured(folder: Path, wait_s: float) -> dict[str, Any]:
    """Run a plate in a process of its own and look at its memory."""
    wait_until_quiet(longest_s=wait_s)
    command = [sys.executable, "-m", "benchmarks.scale", "--run", str(folder)]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE, text=True)
    with PeakMemory(process.pid, every_s=0.05) as memory:
        out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    told: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    told |= {"rate": told["planes"] / told["seconds"], "peak_gb": memory.bytes / 1e9}
    print(
        f"  {told['planes']} planes in {told['seconds']:.1f} s: {told['rate']:.1f} a second,"
        f" {told['peak_gb']:.2f} GB at the peak",
        flush=True,
    )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, few wells: shows that it runs")
    parser.add_argument("--wait", type=float, default=30.0, metavar="S", help="for quiet cores, before each run")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        run_plate(options.run)
        return
    rows, columns, size = (4, 6, 256) if options.quick else (16, 24, 2160)
    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    needed = rows * columns * FIELDS * CHANNELS * size * size * 2 * _PER_PLANE
    free = shutil.disk_usage(SCRATCH).free
    if free < needed:
        raise SystemExit(f"{SCRATCH} has {free / 1e9:.0f} GB free; this needs {needed / 1e9:.0f} GB.")
    try:
        small = make_plate(1, 6 if options.quick else 24, size)
        full = make_plate(rows, columns, size)
        before, large, after = (measured(folder, options.wait) for folder in (small, full, small))
    finally:
        shutil.rmtree(SCRATCH / "scale", ignore_errors=True)
    figures = {
        "planes": float(large["planes"]),
        "peak_gb": large["peak_gb"],
        "vs_small_rate": large["rate"] / statistics.mean((before["rate"], after["rate"])),
    }
    report("scale", figures, GOALS)


if __name__ == "__main__":
    pin_threads()
    main()
