"""What displays cost and how fast they are: a run with its display, the browser's frames, a click, a slider."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import CHECKOUT, SCRATCH
from benchmarks.report import median_ratio, report
from tests.lab.notebook import TIMEOUT_MS, Notebook
from tests.lab.server import CHROMIUM, FLAGS, Lab, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GOALS = {
    "run_with_display": ("<=", 1.02),
    "browser_fps": (">=", 30),
    "kernel_core_share": ("<=", 0.03),
    "click_to_image_ms_p50": ("<=", 200),
    "tune_overhead_ms_p50": ("<=", 150),
    "saved_state_kb": ("<=", 300),
}
_SAVING = {"@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True}}
_STEPS = """
pipeline_steps = [
    Step(percentile_normalize),
    Step(gaussian_blur, {"sigma": 2}, save=True),
    Step(segment_nuclei, channel="W1", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
]"""
_PINNED = """import os, time
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CORE})
spent = []
get_ipython().events.register("pre_run_cell", lambda info: spent.append(time.perf_counter()))
get_ipython().events.register("post_run_cell", lambda result: spent.append(time.perf_counter()))
%openhcs connect PLACE
"""
# The time from an event in the page until the next picture is painted.
_WATCH = """(event) => {
  window.timed = [];
  let begin = null;
  document.addEventListener(event, () => { begin ??= performance.now(); }, true);
  const seen = new MutationObserver(() => requestAnimationFrame(() => {
    if (begin !== null) { window.timed.push(performance.now() - begin); begin = null; }
  }));
  seen.observe(document.body, { subtree: true, attributes: true, attributeFilter: ["data-number"] });
}"""
_FRAMES = """(seconds) => new Promise((resolve) => {
  let frames = 0;
  const begin = performance.now();
  const count = (now) => {
    frames += 1;
    if (now - begin >= 1000 * seconds) resolve(1000 * frames / (now - begin));
    else requestAnimationFrame(count);
  };
  requestAnimationFrame(count);
})"""


class Bench:
    """JupyterLab and a browser on one core, kernels on the other where they say so."""

    def __init__(self, lab: Lab, browser: Browser) -> None:
        self.lab = lab
        self.browser = browser
        self._count = 0

    @contextmanager
    def notebook(self, cells: list[str], height: int = 1300) -> Iterator[Notebook]:
        """Open a notebook."""
        self._count += 1
        page = self.browser.new_page(viewport={"width": 1280, "height": height})
        page.set_default_timeout(3 * TIMEOUT_MS)
        notebook = Notebook(page, self.lab.address, self.lab.work / f"n{self._count}.ipynb", cells)
        notebook.open()
        try:
            yield notebook
        finally:
            notebook.close()
            page.close()
            if notebook.complaints:
                print("  the console:", notebook.complaints[:3])


@contextmanager
def bench(core: int) -> Iterator[Bench]:
    """Serve JupyterLab and start a browser, all of it on one core."""
    from playwright.sync_api import sync_playwright

    home = SCRATCH / "work" / "widgets"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with serve(home, _SAVING) as lab, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield Bench(lab, browser)
            browser.close()
    finally:
        os.sched_setaffinity(0, own)


def repository_of(home: Path, shape: PlateShape) -> Path:
    """Return a repository with a plate of this shape."""
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    place = home / "repositories" / shape.name
    with EmbeddedRepository(place) as repository:
        if not repository.plates():
            repository.import_plate(plate_folder(shape))
    return place


def run_with_display(bench: Bench, core: int, shape: PlateShape, rounds: int) -> dict[str, float]:
    """Time the same cell with its display and with ``--quiet``, in turn."""
    place = repository_of(bench.lab.home, shape)
    prepare = _PINNED.replace("CORE", str(core)).replace("PLACE", str(place))
    shown = f"%%openhcs shown --force{_STEPS}"
    quiet = f"%%openhcs quiet --force --quiet{_STEPS}"
    seconds: dict[str, list[float]] = {"shown": [], "quiet": []}
    with bench.notebook([prepare, shown, quiet, "print(spent[-2] - spent[-3])"]) as notebook:
        notebook.run_to_end(0)
        for number in range(rounds + 1):
            for index, name in ((1, "shown"), (2, "quiet")):
                ended = notebook.run_to_end(index)
                if "done, " not in ended.inner_text():
                    raise RuntimeError(f"the run failed: {ended.inner_text()[-500:]}")
                told = notebook.run_to_end(3).locator(".jp-OutputArea-output").inner_text()
                if number:
                    seconds[name].append(float(told))
    for name, values in seconds.items():
        print(f"  {name}: " + ", ".join(f"{value:.2f}" for value in values) + " s")
    return {"run_with_display": median_ratio(seconds["shown"], seconds["quiet"])}


def changes(bench: Bench, seconds: float) -> dict[str, float]:
    """Follow a run of 384 wells that finishes 100 units a second, conducted by another process."""
    import psutil

    place = repository_of(bench.lab.home, PlateShape(wells=384, sites=4, channels=1, z=1, size=64))
    writer = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.widgets", "--write", str(place), str(seconds + 120)],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    run_id = writer.stdout.readline().strip()
    cells = ["import os; print(os.getpid())", f"%openhcs connect {place}", f"%openhcs attach {run_id}"]
    try:
        with bench.notebook(cells) as notebook:
            pid = int(notebook.run_to_end(0).locator(".jp-OutputArea-output").inner_text())
            notebook.run_to_end(1)
            notebook.run(2).locator(".ohx-run .ohx-count").first.wait_for()
            notebook.page.evaluate(_FRAMES, 2)
            kernel = psutil.Process(pid)
            before, begin = kernel.cpu_times(), time.perf_counter()
            counted = notebook.page.locator(".ohx-run .ohx-count").first.inner_text()
            frames = float(notebook.page.evaluate(_FRAMES, seconds))
            after, took = kernel.cpu_times(), time.perf_counter() - begin
            ended = notebook.page.locator(".ohx-run .ohx-count").first.inner_text()
            print(f"  {counted} -> {ended} units in {took:.1f} s")
            saved = notebook.save()
            state = saved["metadata"].get("widgets", {})
            kb = len(json.dumps(state) + json.dumps(saved["cells"][2])) / 1e3
            writer.terminate()
            notebook.wait_until_idle()
            final = notebook.save()
            print(f"  saved in mid-run {kb:.0f} kB, at the end {len(json.dumps(final)) / 1e3:.0f} kB")
    finally:
        with suppress(ProcessLookupError):
            writer.terminate()
        writer.wait(20)
    used = after.user + after.system - before.user - before.system
    return {"browser_fps": frames, "kernel_core_share": used / took, "saved_state_kb": kb}


def write_changes(place: str, seconds: float) -> None:
    """Be the process that conducts a run: hold its lock and finish 100 units a second."""
    from openhcs_jupyter import Step, compile, connect, discover
    from openhcs_jupyter.engine import start
    from openhcs_jupyter.engine.journal import Journal
    from openhcs_jupyter.engine.store import RunFolder
    from openhcs_jupyter.events import RunStarted, UnitDone
    from openhcs_jupyter.functions import max_projection
    from openhcs_jupyter.pipeline import Pipeline

    repository = connect(place)
    plan = compile(Pipeline([Step(max_projection, save=True)], "changes"), repository.plate(1), discover())
    folder = RunFolder(repository.runs_folder / "20260101-000000.000-changes-0000")
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    lock = folder.lock()
    folder.create(start._record(plan, folder.run_id, {}), plan)
    with Journal(folder.journal) as journal:
        journal.append(RunStarted(time=time.time(), units=len(plan.units), kept=0, workers=2, pid=os.getpid()))
        print(folder.run_id, flush=True)
        begin = time.perf_counter()
        number = 0
        while (now := time.perf_counter() - begin) < seconds:
            while number < 100 * now:
                if number and number % len(plan.units) == 0:
                    journal.append(
                        RunStarted(time=time.time(), units=len(plan.units), kept=0, workers=2, pid=os.getpid())
                    )
                unit = plan.units[number % len(plan.units)]
                journal.append(
                    UnitDone(
                        time=time.time(), unit=unit.id, fingerprint=unit.fingerprint, files=(), read_s=0.0,
                        compute_s=0.0, write_s=0.0, bytes_read=0,
                    )
                )  # fmt: skip
                number += 1
            time.sleep(0.01)  # a hundred changes a second
    lock.close()


def clicks(bench: Bench, count: int) -> dict[str, float]:
    """Click on wells whose one field is 2048 x 2048 in two channels; no well is clicked twice."""
    place = repository_of(bench.lab.home, PlateShape(wells=24, sites=1, channels=2, z=1, size=2048))
    with bench.notebook([f"%openhcs connect {place}", "plate_view(1)"]) as notebook:
        notebook.run_to_end(0)
        cell = notebook.run_to_end(1)
        canvas = cell.locator(".ohx-plate canvas")
        canvas.wait_for()
        width = canvas.bounding_box()
        assert width is not None
        side = int((400 - 26) / 24)
        notebook.page.evaluate(_WATCH, "pointerdown")
        for column in range(min(count, 24)):
            canvas.click(position={"x": 20 + (column + 0.5) * side, "y": 18 + 0.5 * side})
            notebook.page.wait_for_function("(count) => window.timed.length === count", arg=column + 1)
        timed = list(notebook.page.evaluate("() => window.timed"))[1:]
    print("  clicks: " + ", ".join(f"{value:.0f}" for value in timed) + " ms")
    return {"click_to_image_ms_p50": statistics.median(timed)}


def slides(bench: Bench, count: int) -> dict[str, float]:
    """Move a slider; what the step itself took is told below the preview and taken off."""
    place = repository_of(bench.lab.home, PlateShape(wells=24, sites=1, channels=2, z=1, size=2048))
    tune = "tune([Step(max_projection), Step(gaussian_blur, {'sigma': 2.0}, channel='W1')], 'gaussian_blur')"
    with bench.notebook([f"%openhcs connect {place}", tune], height=1500) as notebook:
        notebook.run_to_end(0)
        cell = notebook.run_to_end(1)
        cell.locator(".ohx-grid figure[data-number]").nth(1).wait_for()
        note = cell.get_by_text("gaussian_blur took")
        note.wait_for()
        field = cell.locator("input[type=number]").first
        notebook.page.evaluate(_WATCH, "change")
        beyond = []
        for number in range(count):
            field.fill(f"{2 + 0.1 * (number + 1):.1f}")
            field.press("Enter")
            notebook.page.wait_for_function("(count) => window.timed.length >= count", arg=number + 1)
            taken = float(notebook.page.evaluate("() => window.timed.at(-1)"))
            own = float(note.inner_text().split("took")[1].split("ms")[0])
            beyond.append(taken - own)
            _settle(notebook.page)
    print("  slider: " + ", ".join(f"{value:.0f}" for value in beyond[1:]) + " ms beyond the step")
    return {"tune_overhead_ms_p50": statistics.median(beyond[1:])}


def _settle(page: Page) -> None:
    """Wait until nothing is painted any more."""
    page.evaluate(
        "() => new Promise((resolve) => { let count = window.timed.length; const look = () => {"
        " if (window.timed.length === count) resolve(); else { count = window.timed.length; setTimeout(look, 150); } };"
        " setTimeout(look, 150); })"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    parser.add_argument("--only", choices=["run", "changes", "click", "tune"], help="one of the four parts")
    parser.add_argument("--rounds", type=int, default=7, help="of the run with and without its display")
    parser.add_argument("--write", nargs=2, metavar=("PLACE", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_changes(options.write[0], float(options.write[1]))
        return
    first, *others = sorted(os.sched_getaffinity(0))
    figures: dict[str, float] = {}
    parts: dict[str, Any] = {
        "click": lambda bench: clicks(bench, 4 if options.quick else 24),
        "tune": lambda bench: slides(bench, 4 if options.quick else 24),
        "changes": lambda bench: changes(bench, 3 if options.quick else 10),
        "run": lambda bench: run_with_display(
            bench,
            first,
            PlateShape(wells=24 if options.quick else 192, sites=1, channels=2, z=1, size=540),
            1 if options.quick else options.rounds,
        ),
    }
    with bench((others or [first])[-1]) as opened:
        for name, part in parts.items():
            if options.only in (None, name):
                figures |= part(opened)
    report("widgets", figures, {name: goal for name, goal in GOALS.items() if name in figures})


if __name__ == "__main__":
    main()
