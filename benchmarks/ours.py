"""One run of this project in a fresh process: ``python -m benchmarks.ours PIPELINE FOLDER [--compile] [--warm]``.

Answers with the seconds and the CPU of registering, compiling and running. With ``--warm`` the smallest run is done
first, so that what a process pays only once is not in the times.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.processes import SCRATCH, answer, cpu_seconds, pin_threads

_LOOK_S, _IDLE_CPU_S = 1.0, 0.05


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline", choices=("peer", "standard"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compile", action="store_true", help="stop after compiling")
    parser.add_argument("--warm", action="store_true", help="do one well before the clock starts")
    parser.add_argument("--unprepared", action="store_true", help="as a script that does not say what it will import")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="ours-", dir=SCRATCH / "work"))
    try:
        _measure(options, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _measure(options: argparse.Namespace, place: Path) -> None:
    import cv2

    from benchmarks.pipelines import PIPELINES
    from openhcs_jupyter import compile, discover, run
    from openhcs_jupyter.compiler import Selection
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    cv2.setNumThreads(1)
    topology = discover()
    if options.pipeline == "peer":
        from benchmarks.peer import PEER_IMPORT, peer_functions
        from openhcs_jupyter.door import RunOptions, prepare

        if not options.unprepared:
            prepare(PEER_IMPORT, RunOptions())  # a cell, or a file of `openhcs-jupyter run`, is looked at like this
        peer_functions()
    if options.warm:
        repository = EmbeddedRepository(place / "warm")
        plate = repository.plate(repository.import_plate(options.folder).id)
        selection = Selection(wells=(plate.wells[0].name,))
        run(compile(PIPELINES[options.pipeline](plate), plate, topology, selection, workers=options.workers)).result()
        _wait_until_idle()
    used = [cpu_seconds()]
    clock = [time.perf_counter()]

    def lap() -> None:
        clock.append(time.perf_counter())
        used.append(cpu_seconds())

    repository = EmbeddedRepository(place / "repository")
    summary = repository.import_plate(options.folder)
    lap()
    plate = repository.plate(summary.id)
    plan = compile(PIPELINES[options.pipeline](plate), plate, topology, workers=options.workers)
    lap()
    if not options.compile:
        done = run(plan).result()
        lap()
        assert done.status == "done"
    seconds = [b - a for a, b in itertools.pairwise(clock)]
    cpu = [b - a for a, b in itertools.pairwise(used)]
    names = ("register", "compile", "run")
    answer(
        total_s=clock[-1] - clock[0],
        cpu_s=used[-1] - used[0],
        units=len(plan.units),
        **{f"{name}_s": value for name, value in zip(names, seconds, strict=False)},
        **{f"{name}_cpu_s": value for name, value in zip(names, cpu, strict=False)},
    )


def _wait_until_idle() -> None:
    """Wait until the process that forks workers has imported what it does while there is nothing else to do."""
    before = -1.0
    while (now := cpu_seconds()) - before > _IDLE_CPU_S:
        before = now
        time.sleep(_LOOK_S)  # it imports only where nobody asks it for anything


if __name__ == "__main__":
    pin_threads()
    main()
