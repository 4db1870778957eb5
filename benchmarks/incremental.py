"""What a second run costs: nothing changed, the last step changed; and which of ten changes a cell's identity sees."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import CHECKOUT, SCRATCH, answer, environment, pin_threads
from benchmarks.report import report
from openhcs_jupyter.pipeline import measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.model import Plate
    from openhcs_jupyter.pipeline import Pipeline

GOALS = {
    "rerun_unchanged": ("<=", 0.02),
    "rerun_last_step": ("<=", 1.2),
    "identity_cases_right": ("==", 10),
}
WORKERS = 2
PAIRS = 5
"""Times that the last step is changed, each beside the step alone."""
FIELDS_48 = PlateShape(wells=12, sites=4, channels=2, z=1, size=1080)

CELL = """
import numpy as np

OFFSET = 3

UNUSED = 1

def brighter(stack, by):
    return stack + np.uint16(by + OFFSET)

def chosen(stack, channels={"DAPI", "GFP", "Cy5"}, gain=2):
    known = {"a", "b", "c", "d"}
    if "a" in known:
        return brighter(stack * np.uint16(gain), len(known))
    return stack
"""
CASES: dict[str, tuple[str, str, bool]] = {
    "a comment": ("    known =", "    # what is known\n    known =", True),
    "a docstring": ("gain=2):\n", 'gain=2):\n    """Choose."""\n', True),
    "a moved cell": ("import numpy", "\n\n\n\n\nimport numpy", True),
    "an unused global": ("UNUSED = 1", "UNUSED = 2", True),
    "the function's body": ("stack * ", "stack // ", False),
    "a default": ("gain=2", "gain=3", False),
    "a constant set": ('"d"}', '"e"}', False),
    "a helper": ("np.uint16(by + OFFSET)", "np.uint16(by - OFFSET)", False),
    "a global": ("OFFSET = 3", "OFFSET = 4", False),
}
"""What is changed, from what to what, and whether the results stay; the tenth case is another hash seed."""


@measure()
def objects(stack: NDArray[Any], labels: NDArray[Any], salt: int = 0) -> dict[str, NDArray[Any]]:  # noqa: ARG001 - below
    """Measure shape and intensity of every label, as somebody's own function would; `salt` only tells runs apart."""
    from skimage.measure import regionprops_table

    names = ("label", "area", "centroid", "eccentricity", "intensity_mean", "intensity_max")
    table: dict[str, NDArray[Any]] = regionprops_table(labels[0], stack[0], properties=names)
    return table


def smooth(stack: NDArray[Any], sigma: float = 3.0) -> NDArray[Any]:
    """Blur, as somebody's own function would."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(plane.astype(np.float32), sigma) for plane in stack])


def pipeline(plate: Plate, salt: int = 0, *, last: bool = True) -> Pipeline:
    """Write a pipeline of standard and own functions, whose last step is an own one."""
    from openhcs_jupyter.functions import percentile_normalize, segment_nuclei
    from openhcs_jupyter.pipeline import Labels, Pipeline, Step, Table

    first = plate.channels[0].name
    steps = [
        Step(percentile_normalize, {"low": 1, "high": 99.8}),
        Step(smooth, name="smooth", save=not last),
        Step(segment_nuclei, channel=first, outputs=Labels("nuclei")),
    ]
    if last:
        steps.append(Step(objects, {"salt": salt}, inputs={"labels": "nuclei"}, outputs=Table("objects")))
    return Pipeline(steps, "incremental")


def _timed(plate: Plate, salt: int = 0, *, last: bool = True) -> tuple[float, Run]:
    from openhcs_jupyter import compile, discover, run

    os.sync()  # nobody pays for what was written before
    begin = time.perf_counter()
    plan = compile(pipeline(plate, salt, last=last), plate, discover(), workers=WORKERS)
    done = run(plan).result()
    return time.perf_counter() - begin, done


def _last_step(place: Path, names: list[str]) -> float:
    """Time the last step alone, by two processes that have its input in files: read, compute, write."""
    _alone((place, "warm"))  # what is imported here need not be imported there
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        pool.map(_alone, [(place, "warm")] * 2 * WORKERS, chunksize=1)
        os.sync()
        begin = time.perf_counter()
        for _ in pool.imap_unordered(_alone, [(place, name) for name in names]):
            pass
        return time.perf_counter() - begin


def _alone(task: tuple[Path, str]) -> None:
    import numpy as np
    import pyarrow as pa

    place, name = task
    source = place / ("0" if name == "warm" else name)
    labels = np.load(source.with_suffix(".labels.npy"), mmap_mode="r")
    tables = []
    for channel in range(2):
        stack = np.load(source.with_suffix(f".{channel}.npy"), mmap_mode="r")
        tables.append(pa.table(objects(stack, labels)))
    with pa.ipc.new_file(str(place / f"{name}.{os.getpid()}.arrow"), tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def measure_runs(folder: Path) -> None:
    """Time one first run, the same again, and one with another last step; answer with the seconds."""
    import numpy as np

    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="incremental-", dir=SCRATCH / "work"))
    try:
        # The process that forks workers has imported everything before the clock starts.
        warm = EmbeddedRepository(work / "warm")
        plate = warm.plate(warm.import_plate(folder).id)
        _, before = _timed(plate, last=False)
        inputs = work / "inputs"
        inputs.mkdir()
        names = []
        for number, (well, field) in enumerate((w.name, f.number) for w, f in plate.fields()):
            names.append(str(number))
            np.save(inputs / f"{number}.labels.npy", before.labels("nuclei", well=well, field=field)[0, 0])
            image = before.image("smooth", well=well, field=field)[0]
            for channel in range(2):
                np.save(inputs / f"{number}.{channel}.npy", image[channel])
        repository = EmbeddedRepository(work / "repository")
        plate = repository.plate(repository.import_plate(folder).id)
        first, done = _timed(plate)
        unchanged, again = _timed(plate)
        assert done.table("objects").equals(again.table("objects"))
        changed, alone = [], []
        for salt in range(1, PAIRS + 1):
            changed.append(_timed(plate, salt=salt)[0])
            alone.append(_last_step(inputs, names))
        os.environ["OPENHCS_CACHE_GB"] = "1e-6"
        bare = EmbeddedRepository(work / "bare")
        without, _ = _timed(bare.plate(bare.import_plate(folder).id))
        answer(
            first_s=first,
            unchanged_s=unchanged,
            changed_s=changed,
            alone_s=alone,
            without_s=without,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure_cases(folder: Path, place: Path, names: list[str]) -> None:
    """Run the cell, or one changed, and answer with how many units each run did itself."""
    from openhcs_jupyter import Step, compile, discover, run
    from openhcs_jupyter.compiler import Selection
    from openhcs_jupyter.events import UnitDone
    from openhcs_jupyter.pipeline import Pipeline
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    repository = EmbeddedRepository(place)
    plate = repository.plate(repository.import_plate(folder).id)
    selection = Selection(wells=(plate.wells[0].name,))
    told = {}
    for name in names:
        old, new, _ = CASES.get(name, ("", "", True))
        cell = CELL.replace(old, new) if old else CELL
        assert cell != CELL or not old
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile_cell(cell, name), namespace)
        pipe = Pipeline([Step(namespace["chosen"])], "cases")
        done = run(compile(pipe, plate, discover(), selection, workers=1)).result()
        events = [event for event in done.events(follow=False) if isinstance(event, UnitDone)]
        told[name] = [sum(not event.reused for event in events), len(events)]
    answer(**told)


def compile_cell(cell: str, name: str) -> Any:
    """Compile a cell as a notebook does: each under a file name of its own."""
    return compile(cell, f"/tmp/ipykernel/{abs(hash(name))}.py", "exec", dont_inherit=True)


def _call(arguments: list[str], **more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.incremental", *arguments]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment(more), stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def identity_cases(folder: Path) -> int:
    """Count the cases that are right."""
    place = Path(tempfile.mkdtemp(prefix="identity-", dir=SCRATCH / "work"))
    right = 0
    try:
        told = _call(["--cases", str(folder), str(place), "as it is", *CASES], PYTHONHASHSEED="1")
        assert told["as it is"][0] == told["as it is"][1] > 0
        told |= {
            "another hash seed": _call(["--cases", str(folder), str(place), "as it is"], PYTHONHASHSEED="2")["as it is"]
        }
        for name, stays in {**{name: case[2] for name, case in CASES.items()}, "another hash seed": True}.items():
            done, units = told[name]
            good = done == (0 if stays else units)
            right += good
            print(f"  {name:<20} {'kept' if done == 0 else f'{done} of {units} done anew'}{'' if good else '   WRONG'}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small plate, one round: shows that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="+", metavar="WHAT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs is not None:
        measure_runs(options.runs)
        return
    if options.cases is not None:
        folder, place, *names = options.cases
        measure_cases(Path(folder), Path(place), names)
        return
    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    small = PlateShape(wells=4, sites=2, channels=2, z=1, size=540)
    figures = {"identity_cases_right": float(identity_cases(plate_folder(small)))}
    rounds = []
    for _ in range(1 if options.quick else options.rounds):
        told = _call(["--runs", str(plate_folder(small if options.quick else FIELDS_48))])
        rounds.append(told)
        print(
            f"  first {told['first_s']:.2f} s (without keeping {told['without_s']:.2f}),"
            f" unchanged {told['unchanged_s']:.3f},"
            f" last step {', '.join(f'{s:.2f}' for s in told['changed_s'])}"
            f" (alone {', '.join(f'{s:.2f}' for s in told['alone_s'])})",
            flush=True,
        )
    figures["rerun_unchanged"] = statistics.median(told["unchanged_s"] / told["first_s"] for told in rounds)
    figures["rerun_last_step"] = statistics.median(
        a / b for told in rounds for a, b in zip(told["changed_s"], told["alone_s"], strict=True)
    )
    figures["first_run_vs_without_keeping"] = statistics.median(told["first_s"] / told["without_s"] for told in rounds)
    report("incremental", figures, GOALS)


if __name__ == "__main__":
    pin_threads()
    main()
