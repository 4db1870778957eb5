"""Server, jobs and clients are killed at random moments; in the end every job must have been done, and once.

Jobs note every unit that they compute in a file, a witness that the server knows nothing of. A unit that a killed
process had begun and not finished may be noted twice; a finished one may not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.plates import PlateShape
from benchmarks.report import report
from benchmarks.server import server
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.processes import of_seat, seats
from tests.server.serving import ServerProcess, payload, until

_KINDS = ("server", "job", "client")
_SHAPE = PlateShape(wells=4, sites=2, channels=1, z=1, size=64)
_UNITS = 8
_JOBS = 2
_CELL = """
import os, time

def slowly(stack, context):
    time.sleep(0.05)  # so that there is something to kill
    file = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{{context.well}} {{context.field}}\\n".encode())
    os.close(file)
    return stack + {number}

pipeline_steps = [Step(slowly, save=True)]
"""


class Trials:
    """One server, on which things are killed while it has jobs."""

    def __init__(self, one: ServerProcess, folder: Path) -> None:
        self._one = one
        self._folder = folder
        self._dice = random.Random(1)
        self._client = one.client()
        self._number = 0
        self.counts: Counter[str] = Counter(kills=0, lost=0, doubled=0, recomputed=0, orphans=0)

    def kill(self, kind: str) -> None:
        """Hand in jobs, kill something, and judge what became of them."""
        jobs = dict(self._submit() for _ in range(_JOBS))
        wanted = self._dice.randint(0, _JOBS * _UNITS - 1)
        until(lambda: self._done(jobs) >= wanted)
        killed = self._kill(kind)
        keys = [one.key for one in self._client.ask(p.ListJobs, limit=p.MOST_LISTED).jobs]
        self.counts["kills"] += killed
        self.counts["doubled"] += len(keys) - len(set(keys))
        for job, log in jobs.items():
            ended = until(lambda job=job: self._ended(job))
            self.counts["lost"] += ended.state != "done" or ended.done != _UNITS
            self._judge(job, log)
        mark = (self._one.state / "mark").read_text()
        active = until(lambda: self._client.ask(p.GetServer).active == 0)
        assert active
        # One process may be getting ready for the next job, and what it starts itself.
        self.counts["orphans"] += len({seat for _, seat in seats() if seat.startswith(mark)}) > 1

    def _submit(self) -> tuple[str, Path]:
        self._number += 1
        log = self._folder / f"witness-{self._number}.txt"
        key = p.new_key()
        made = payload(_CELL.format(log=str(log), number=self._number))
        job = self._client.submit(made, key=key)
        # A client that is not sure sends it again.
        assert self._client.submit(made, key=key).id == job.id
        return job.id, log

    def _done(self, jobs: dict[str, Path]) -> int:
        return sum(self._client.job(job).done for job in jobs)

    def _ended(self, job: str) -> p.Job | None:
        found = self._client.job(job)
        return found if found.state in p.ENDED else None

    def _kill(self, kind: str) -> int:
        if kind == "server":
            self._one.kill()
            self._one.start()
            self._client = self._one.client()
            return 1
        if kind == "client":
            self._client.socket.close()
            self._client = self._one.client()
            return 1
        mark = (self._one.state / "mark").read_text()
        active = [seat for seat in {seat for _, seat in seats() if seat.startswith(mark)} if self._is_at_work(seat)]
        victims = [pid for seat in active for pid in list(of_seat(seat))[:1]]
        if not victims:
            return 0
        try:
            os.kill(self._dice.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return 0
        return 1

    def _is_at_work(self, seat: str) -> bool:
        """Tell whether a process has a job, and does not wait for one: it has gone to its job's folder."""
        jobs = str(self._one.state / "jobs")
        for pid in of_seat(seat):
            try:
                if str(Path(f"/proc/{pid}/cwd").readlink()).startswith(jobs):
                    return True
            except OSError:
                continue
        return False

    def _judge(self, job: str, log: Path) -> None:
        """Count units that were computed again though they had been finished."""
        told = [one.event for one in self._client.events(job) if isinstance(one.event, UnitDone)]
        fresh = Counter(event.unit for event in told if not event.reused)
        self.counts["recomputed"] += sum(count - 1 for count in fresh.values())
        noted = Counter(log.read_text().splitlines())
        self.counts["lost"] += len(noted) != _UNITS


def main() -> None:
    """Kill and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    kills = parser.parse_args().kills
    folder = Path(tempfile.mkdtemp(prefix="openhcs-faults-"))
    try:
        with server(folder, _SHAPE, "--max-workers", "2") as one:
            trials = Trials(one, folder)
            for kind in _KINDS:
                _until_killed(trials, kind, kills)
                print(f"  {kind}: {kills} killed", dict(trials.counts), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    goals = {"kills": ("==", float(kills * len(_KINDS)))}
    goals |= dict.fromkeys(("lost", "doubled", "recomputed", "orphans"), ("==", 0.0))
    report("faults_server", {name: float(value) for name, value in trials.counts.items()}, goals)


def _until_killed(trials: Trials, kind: str, kills: int) -> None:
    wanted = trials.counts["kills"] + kills
    more: Callable[[], bool] = lambda: trials.counts["kills"] < wanted  # noqa: E731 - used in this function only
    while more():
        trials.kill(kind)


if __name__ == "__main__":
    main()
