"""Server, jobs, clients and OMERO are killed at random moments; in the end every job must have been done, and once.

Jobs note every unit that they compute in a file, a witness that the server knows nothing of. A unit that a killed
process had begun and not finished may be noted twice; a finished one may not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from benchmarks.plates import PlateShape
from benchmarks.report import report
from benchmarks.server import server
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import ENDED, RESTING, Job, Payload, new_key
from openhcs_jupyter.server.processes import of_seat
from tests.server.serving import Client, ServerProcess, payload, running, until

KINDS = ("server", "job", "client", "omero")
_SHAPE = PlateShape(wells=4, sites=2, channels=1, z=1, size=64)
_UNITS = 8
_JOBS = 3
_KILLS = 4
"""In one round, while its jobs run."""
_PATIENCE_S = 120.0
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
    """One server, on which things are killed while it has jobs.

    Parameters
    ----------
    one
        The server.
    folder
        For the witnesses.
    kind
        What is killed.
    connect
        Makes a client that the server knows.
    plate
        Of eight fields.
    omero
        Kills OMERO and starts it again.
    """

    def __init__(
        self,
        one: ServerProcess,
        folder: Path,
        kind: str,
        connect: Callable[[], Client],
        plate: str | None = None,
        omero: Callable[[], None] | None = None,
    ) -> None:
        self._one = one
        self._folder = folder
        self._kind = kind
        self._connect = connect
        self._plate = plate
        self._omero = omero
        self._dice = random.Random(KINDS.index(kind))
        self._client = connect()
        self._number = 0
        self.counts: Counter[str] = Counter(kills=0, lost=0, doubled=0, recomputed=0, orphans=0)

    def round(self, kills: int) -> None:
        """Hand in jobs, kill something some times, and judge what became of the jobs."""
        jobs = {new_key(): self._work() for _ in range(_JOBS)}
        if self._kind == "client":
            self._kill_clients(jobs, kills)
        for key, (work, _) in jobs.items():
            # A client that is not sure sends it again.
            assert self._client.submit(work, key=key).id == self._client.submit(work, key=key).id
        while self._kind != "client" and kills and not self._have_ended(jobs):
            wanted = self._done(jobs) + self._dice.randint(0, 4)
            until(lambda wanted=wanted: self._done(jobs) >= wanted or self._have_ended(jobs), _PATIENCE_S)
            time.sleep(self._dice.uniform(0, 0.05))  # the moment of the kill is what is tried
            killed = self._kill()
            self.counts["kills"] += killed
            kills -= killed
        until(lambda: self._have_ended(jobs), _PATIENCE_S)
        self._judge(jobs)

    def _work(self) -> tuple[Payload, Path]:
        self._number += 1
        log = self._folder / f"witness-{self._number}.txt"
        options = {"plate": self._plate} if self._plate else {}
        return payload(_CELL.format(log=str(log), number=self._number), **options), log

    def _jobs(self, jobs: dict[str, tuple[Payload, Path]]) -> list[Job]:
        listed = self._client.ask(p.ListJobs, limit=2 * _JOBS).jobs
        return [job for job in listed if job.key in jobs]

    def _done(self, jobs: dict[str, tuple[Payload, Path]]) -> int:
        return sum(job.done for job in self._jobs(jobs))

    def _have_ended(self, jobs: dict[str, tuple[Payload, Path]]) -> bool:
        return all(job.state in ENDED | set(RESTING) for job in self._jobs(jobs))

    def _kill(self) -> int:
        if self._kind == "server":
            self._one.kill()
            self._one.start()
            self._client = self._connect()
            return 1
        if self._kind == "omero":
            assert self._omero is not None
            self._omero()
            return 1
        victims = [pid for seat in self._at_work() for pid in sorted(of_seat(seat))[:2]]
        try:
            os.kill(self._dice.choice(victims or [0]) or 2**22, signal.SIGKILL)
        except ProcessLookupError:
            return 0
        return 1

    def _kill_clients(self, jobs: dict[str, tuple[Payload, Path]], kills: int) -> None:
        """Have clients hand the jobs in and follow them, and kill each at another moment."""
        for _ in range(kills):
            words = [sys.executable, "-m", "benchmarks.faults_server", "--follow"]
            words += [self._one.invitation.line(), self._one.token]
            work = msgspec.msgpack.encode([(key, work) for key, (work, _) in jobs.items()])
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(work)
                client.stdin.close()
                client.stdout.readline()  # it is about to hand in the first
                time.sleep(self._dice.uniform(0, 0.05))  # likewise
                client.kill()
            self.counts["kills"] += 1

    def _at_work(self) -> list[str]:
        """List the processes that have a job, and do not wait for one: they have gone to their job's folder."""
        jobs = str(self._one.state / "jobs")
        return [seat for seat in self._one.seats() if any(_folder_of(pid).startswith(jobs) for pid in of_seat(seat))]

    def _judge(self, jobs: dict[str, tuple[Payload, Path]]) -> None:
        found = self._jobs(jobs)
        keys = [job.key for job in found]
        self.counts["doubled"] += len(keys) - len(set(keys))
        self.counts["lost"] += len(jobs) - len(set(keys))
        for job in found:
            done = job.state == "done" and job.done == _UNITS
            noted = set(jobs[job.key][1].read_text().splitlines()) if jobs[job.key][1].exists() else set()
            if not done or len(noted) != _UNITS:
                self.counts["lost"] += 1
                print("  lost:", job, self._client.log(job.id), sep="\n", flush=True)
            told = [one.event for one in self._client.events(job.id) if isinstance(one.event, UnitDone)]
            fresh = Counter(event.unit for event in told if not event.reused)
            self.counts["recomputed"] += sum(count - 1 for count in fresh.values())
        until(lambda: self._client.ask(p.GetServer).active == 0)
        # One process may be getting ready for the next job; all come from one more.
        self.counts["orphans"] += max(0, len(self._one.seats()) - 2)


def _folder_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


@contextmanager
def _embedded(folder: Path, kind: str) -> Iterator[Trials]:
    with server(folder, _SHAPE, "--max-workers", "2") as one:
        yield Trials(one, folder, kind, one.client)


@contextmanager
def _beside_omero(folder: Path) -> Iterator[Trials]:
    from openhcs_jupyter.repository.omero.address import parse_address
    from openhcs_jupyter.repository.omero.sessions import Connection
    from tests.omero.lab import Lab
    from tests.omero_standin.sample import PASSWORDS

    for name in ("DATA", "STATE", "CONFIG", "RUNTIME"):
        os.environ[f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}"] = str(folder / name.lower())
    lab = Lab(folder / "omero")
    plate, _ = lab.sample.plate("eight", wells=("A01", "A02", "B01", "B02"), fields=2)
    with ExitStack() as stack:
        stack.enter_context(lab)
        one = stack.enter_context(running(folder / "server", "--repository", lab.uri("ada"), "--max-workers", "2"))

        def connect() -> Client:
            with Connection(parse_address(lab.uri("ada")), lambda _: PASSWORDS["ada"]) as connection:
                made = one.stranger()
                made.ask(p.Hello, version=p.PROTOCOL_VERSION, session=connection.key)
                return made

        def omero() -> None:
            lab.server.kill()
            lab.server.start()

        yield Trials(one, folder, "omero", connect, str(plate), omero)


def _follow(line: str, token: str) -> None:
    """Be a client that hands in jobs, and follows them until it is killed."""
    from openhcs_jupyter.streaming.keys import read_invitation

    client = Client(read_invitation(line))
    client.watch(client.hello(token))
    work = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[tuple[str, Payload]])
    print("ready", flush=True)
    for key, one in work:
        client.submit(one, key=key)
    while True:
        client.news.recv_multipart()


def main() -> None:
    """Kill and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    parser.add_argument("--only", action="append", choices=KINDS)
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow:
        _follow(*options.follow)
    kinds = options.only or KINDS
    counts: Counter[str] = Counter(kills=0, lost=0, doubled=0, recomputed=0, orphans=0)
    for kind in kinds:
        folder = Path(tempfile.mkdtemp(prefix="openhcs-faults-"))
        try:
            with _beside_omero(folder) if kind == "omero" else _embedded(folder, kind) as trials:
                while (left := options.kills - trials.counts["kills"]) > 0:
                    trials.round(min(left, _KILLS))
                    print(f"  {kind}:", dict(trials.counts), flush=True)
                counts.update(trials.counts)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    goals = {"kills": ("==", float(options.kills * len(kinds)))}
    goals |= dict.fromkeys(("lost", "doubled", "recomputed", "orphans"), ("==", 0.0))
    report("faults_server", {name: float(value) for name, value in counts.items()}, goals)


if __name__ == "__main__":
    main()
