"""Kernels and workers are killed at random moments of a run; the resumed run must end as if nothing had happened.

The run is a ``%%openhcs`` cell in a real kernel. Its functions note every unit that they computed in a file, so what
was computed twice is known from a witness that the engine knows nothing of.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import SCRATCH, environment
from benchmarks.report import report
from openhcs_jupyter.compiler.plan import ExecutionPlan
from openhcs_jupyter.events import AnyEvent, RunFinished, RunStarted, UnitDone
from openhcs_jupyter.repository.embedded import EmbeddedRepository

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

GOALS = {"kills": ("==", 50), "lost": ("==", 0), "recomputed": ("==", 0), "different": ("==", 0)}

_CELL = """%%openhcs trial --plate 1 --save --quiet --workers 2 {options}
import os

import cv2
import numpy as np

from openhcs_jupyter import Labels, Step, Table, image, measure, table

LOG = {log!r}


def note(what):
    file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (what + "\\n").encode())
    os.close(file)


@image(depth="same", dtype="same")
def smoothed(stack):
    for _ in range({rounds}):
        stack = np.stack([cv2.GaussianBlur(plane, (31, 31), 3) for plane in stack])
    return stack


def nuclei(stack):
    _, mask = cv2.threshold(cv2.convertScaleAbs(stack[0], alpha=0.1), 0, 255, cv2.THRESH_OTSU)
    return stack, cv2.connectedComponents(mask, ltype=cv2.CV_32S)[1][None]


@measure()
def objects(stack, labels, context):
    area = np.bincount(labels.ravel())[1:]
    total = np.bincount(labels.ravel(), stack[0].ravel())[1:]
    note(f"{{context.well}} {{context.field}}")
    return {{"label": np.arange(1, len(area) + 1), "area": area, "mean": total / area}}


@table(over="well")
def medians(objects):
    found = objects.groupby("well", as_index=False)[["area", "mean"]].median()
    note(f"{{objects['well'].iloc[0]}} -")
    return found


pipeline_steps = [
    Step(smoothed, save=True),
    Step(nuclei, channel="W1", outputs=Labels("nuclei")),
    Step(objects, channel="W1", inputs={{"labels": "nuclei"}}, outputs=Table("objects")),
    Step(medians, inputs={{"objects": "objects"}}, outputs=Table("wells")),
]
"""
_LONGEST_S = 120.0


class Kernel:
    """A real kernel with the extension, joined to the benchmark's repository; a context manager."""

    def __init__(self, repository: Path) -> None:
        from jupyter_client.manager import KernelManager

        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(env=environment(), cwd=str(SCRATCH))
        self.client: BlockingKernelClient = self._manager.client()
        self.client.start_channels()
        self.pid = int(getattr(self._manager.provisioner, "pid", 0))
        self.run("%load_ext openhcs_jupyter")
        self.run(f"%openhcs connect {repository}")

    def send(self, code: str) -> str:
        """Send a cell and return the id of its message."""
        return str(self.client.execute(code))

    def reply(self, message: str) -> dict[str, Any]:
        """Wait for the answer to a cell."""
        end = time.monotonic() + _LONGEST_S
        while time.monotonic() < end:
            found: dict[str, Any] = self.client.get_shell_msg(timeout=_LONGEST_S)
            if found["parent_header"].get("msg_id") == message:
                return found["content"]  # type: ignore[no-any-return]  # the client is not typed
        raise TimeoutError("the kernel does not answer")

    def run(self, code: str) -> None:
        """Run a cell to its end.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        content = self.reply(self.send(code))
        if content["status"] != "ok":
            raise RuntimeError(f"{content.get('ename')}: {content.get('evalue')}\n" + "\n".join(content["traceback"]))

    def close(self) -> None:
        """End the kernel, dead or alive, and what belongs to it on this side."""
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Trial(NamedTuple):
    """One run with its witness."""

    log: Path
    folder: Path
    """The run's folder."""

    def cell(self, rounds: int, options: str = "") -> str:
        """Write the cell of this trial."""
        return _cell(self.log, rounds, options)

    def events(self) -> list[AnyEvent]:
        """Read the journal, but for a last line that was not written to its end."""
        decoder = msgspec.json.Decoder(AnyEvent)
        lines = (self.folder / "journal.jsonl").read_bytes().split(b"\n")[:-1]
        return [decoder.decode(line) for line in lines]

    def units(self) -> dict[int, tuple[str, str]]:
        """Return what the witness calls every unit whose functions it sees, and the unit's folder."""
        plan = ExecutionPlan.from_json((self.folder / "plan.json").read_bytes())
        computing = {stage.index for stage in plan.stages if stage.kind == "compute"}
        return {
            unit.id: (f"{unit.well} {unit.field or '-'}", unit.key) for unit in plan.units if unit.stage in computing
        }

    def finished(self, before: float | None = None) -> set[str]:
        """Return the units that are finished, by journal or folder; with `before`, by the journal of that time."""
        units = self.units()
        journal = {
            units[event.unit][0]
            for event in self.events()
            if isinstance(event, UnitDone) and event.unit in units and (before is None or event.time < before)
        }
        folders = {name for name, key in units.values() if (self.folder / "units" / key).is_dir()}
        return journal if before is not None else journal | folders

    def computed(self) -> list[str]:
        """Return what the witness noted, in order."""
        return self.log.read_text().splitlines() if self.log.exists() else []


class Faults:
    """The trials and what came of them."""

    def __init__(self, place: Path, shape: PlateShape, rounds: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._place = place
        self._rounds = rounds
        self._trials = 0
        self.repository = EmbeddedRepository(place / "repository")
        self._plate = self.repository.plate(self.repository.import_plate(plate_folder(shape)).id)
        self.kernel = Kernel(place / "repository")
        self.counts: Counter[str] = Counter(kills=0, lost=0, recomputed=0, different=0)
        self.finished_shares: list[float] = []
        undisturbed = [self._undisturbed() for _ in range(2)]
        self._reference = self._digest(undisturbed[-1])
        if self._digest(undisturbed[0]) != self._reference:
            raise RuntimeError("two undisturbed runs differ")
        started, *_, ended = undisturbed[-1].events()
        self._seconds = ended.time - started.time
        self._units = len(undisturbed[-1].units())
        print(f"  an undisturbed run: {self._units} units in {self._seconds:.2f} s", flush=True)

    def kill_kernel(self) -> None:
        """Kill the kernel in a run; resume in a new one."""
        trial, message = self._begin()
        self._moment()
        below = _descendants(self.kernel.pid)
        os.kill(self.kernel.pid, signal.SIGKILL)
        _until(lambda: not any(map(_lives, below)), "the workers of a killed kernel to end")
        self.kernel.close()
        done = _is_finished(trial)
        finished, noted = trial.finished(), len(trial.computed())
        self.kernel = Kernel(self._place / "repository")
        del message
        if done:
            return  # the run was over before the kernel died
        self.counts["kills"] += 1
        self._resume(trial)
        self._judge(trial, finished, trial.computed()[noted:])

    def kill_worker(self) -> None:
        """Kill one of the processes below the kernel in a run; resume if that leaves anything undone."""
        trial, message = self._begin()
        self._moment()
        victims = _descendants(self.kernel.pid)
        if not victims or _is_finished(trial):
            self.kernel.reply(message)
            return
        noted, killed = len(trial.computed()), time.time()
        os.kill(self._random.choice(victims), signal.SIGKILL)
        finished = trial.finished(before=killed)
        self.counts["kills"] += 1
        if self.kernel.reply(message)["status"] != "ok":
            self._resume(trial)
        self._judge(trial, finished, trial.computed()[noted:])

    def close(self) -> None:
        """End the kernel."""
        self.kernel.close()

    def _begin(self) -> tuple[Trial, str]:
        """Send the cell of a new trial; returns when its run has started."""
        self._trials += 1
        log = self._place / f"witness-{self._trials}.txt"
        runs = self.repository.runs_folder
        before = set(runs.iterdir()) if runs.exists() else set()
        message = self.kernel.send(_cell(log, self._rounds, ""))

        def started() -> Trial | None:
            for folder in set(runs.iterdir()) - before if runs.exists() else ():
                trial = Trial(log, folder)
                if (folder / "journal.jsonl").exists() and trial.events():
                    return trial
            return None

        return _until(started, "the run to start"), message

    def _undisturbed(self) -> Trial:
        trial, message = self._begin()
        content = self.kernel.reply(message)
        if content["status"] != "ok":
            raise RuntimeError("\n".join(content["traceback"]))
        counts = Counter(trial.computed())
        if set(counts.values()) != {1} or set(counts) != {name for name, _ in trial.units().values()}:
            raise RuntimeError(f"the witness did not see every unit once: {counts}")
        return trial

    def _moment(self) -> None:
        time.sleep(self._random.uniform(0, self._seconds))  # the moment of the kill is what is tried

    def _resume(self, trial: Trial) -> None:
        content = self.kernel.reply(self.kernel.send(trial.cell(self._rounds, "--resume last")))
        if content["status"] != "ok":
            print(f"  {trial.folder.name} could not be resumed: {content['evalue']}", flush=True)

    def _judge(self, trial: Trial, finished: set[str], computed_later: list[str]) -> None:
        """Compare the end of a trial with the undisturbed run."""
        self.finished_shares.append(len(finished) / self._units)
        again = finished & set(computed_later)
        gone = finished - trial.finished()
        same = False
        if _is_finished(trial):
            try:
                same = self._digest(trial) == self._reference
            except Exception as error:  # noqa: BLE001 - results that cannot be read are different ones
                print(f"  {trial.folder.name}: {error}", flush=True)
        self.counts["recomputed"] += len(again)
        self.counts["lost"] += len(gone)
        self.counts["different"] += not same
        if again or gone or not same:
            print(f"  {trial.folder.name}: recomputed {sorted(again)}, lost {sorted(gone)}, same {same}", flush=True)
        elif trial.folder.exists():
            shutil.rmtree(trial.folder)

    def _digest(self, trial: Trial) -> str:
        """Digest everything that a run gave: tables, images, labels, and the arrays that it saved."""
        from openhcs_jupyter.engine import load_run

        run = load_run(self.repository, trial.folder.name)
        digest = hashlib.sha256()
        for name in ("objects", "wells"):
            found = run.table(name)
            for column in found.columns:
                digest.update(f"{name}.{column}:{found[column].tolist()}".encode())
        for well, field in self._plate.fields():
            digest.update(run.image("smoothed", well=well.name, field=field.number).tobytes())
            digest.update(run.labels("nuclei", well=well.name, field=field.number).tobytes())
        if run.results_at is None:
            raise RuntimeError("nothing was saved")
        saved = Path(run.results_at)
        for file in sorted(path for path in saved.rglob("*") if path.is_file()):
            # Attributes and provenance tell of run and time; arrays must be the same.
            if file.name == ".zarray" or not (file.name.startswith(".z") or file.suffix):
                digest.update(str(file.relative_to(saved)).encode() + file.read_bytes())
        return digest.hexdigest()


def _cell(log: Path, rounds: int, options: str) -> str:
    return _CELL.format(options=options, log=str(log), rounds=rounds)


def _is_finished(trial: Trial) -> bool:
    """Tell whether the run's last start came to a good end."""
    done = False
    for event in trial.events():
        if isinstance(event, RunStarted):
            done = False
        elif isinstance(event, RunFinished):
            done = event.status == "done"
    return done


def _descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition gives something, and return that."""
    end = time.monotonic() + _LONGEST_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.002)  # between looks
    raise TimeoutError(f"waited in vain for {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two kills of each kind: shows that it runs")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which processes are killed")
    options = parser.parse_args()
    kills = 2 if options.quick else 25
    shape = PlateShape(wells=6 if options.quick else 12, sites=4, channels=2, z=1, size=256)
    place = SCRATCH / "work" / "faults"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    faults = Faults(place, shape, rounds=20, seed=options.seed)
    try:
        for wanted, kill in ((kills, faults.kill_kernel), (2 * kills, faults.kill_worker)):
            tries = 0
            while faults.counts["kills"] < wanted:
                kill()
                tries += 1
                if tries > 10 * kills:
                    raise RuntimeError("the runs end before anything can be killed")
            print(f"  {kill.__name__}: {dict(faults.counts)}", flush=True)
    finally:
        faults.close()
    figures = {name: float(count) for name, count in faults.counts.items()}
    shares = faults.finished_shares
    print(
        f"  units finished at the kill: median {statistics.median(shares):.0%}, {min(shares):.0%} to {max(shares):.0%}"
    )
    report("faults", figures, {name: goal for name, goal in GOALS.items() if name != "kills" or not options.quick})


if __name__ == "__main__":
    main()
