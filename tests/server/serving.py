"""A real execution server in a process of its own, and a client that says exactly what a test wants."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import zmq

from openhcs_jupyter.door import RunOptions
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.identity import read_token
from openhcs_jupyter.server.job import SHOW_STACK
from openhcs_jupyter.server.model import ENDED, RESTING, Job, JobEvent, Payload, new_key
from openhcs_jupyter.server.processes import end_all, seats
from openhcs_jupyter.streaming.keys import Invitation, new_keys, read_invitation
from openhcs_jupyter.streaming.sockets import join_curve

PATIENCE_S = 60.0
SLOW = """
import time

def slowly(stack, seconds=0.15):
    time.sleep(seconds)
    return stack + 1

pipeline_steps = [Step(max_projection), Step(slowly)]
"""
"""Eight units on the tests' plate."""
T = TypeVar("T")
R = TypeVar("R", bound=p.AnyReply)


def until(what: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Wait for something to be true, and return it."""
    end = time.monotonic() + patience_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class RefusedError(Exception):
    """The server has refused a request."""

    def __init__(self, reply: p.Refused) -> None:
        super().__init__(f"{reply.kind}: {reply.message}")
        self.reply = reply


class Client:
    """One connection with a key of its own."""

    def __init__(self, invitation: Invitation, context: zmq.Context | None = None) -> None:
        self.context = context or zmq.Context.instance()
        self.keys = new_keys()
        self.invitation = invitation
        self.socket = self._socket(zmq.DEALER)
        self.socket.connect(invitation.endpoint.control)
        self.news = self._socket(zmq.SUB)
        self._number = 0

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.linger = 0
        join_curve(socket, self.keys, self.invitation.key)
        return socket

    def count_from(self, number: int) -> None:
        self._number = number

    def send(self, request: type[p.Request], **values: object) -> int:
        self._number += 1
        self.socket.send(p.encode(request(id=self._number, **values)))
        return self._number

    def ask(self, request: type[p.Request], patience_s: float = PATIENCE_S, **values: object) -> p.AnyReply:
        """Ask something and return the answer to it."""
        number = self.send(request, **values)
        end = time.monotonic() + patience_s
        while True:
            left = int((end - time.monotonic()) * 1000)
            assert self.socket.poll(max(0, left)), f"no answer to {request.__name__}"
            reply = p.read_reply(self.socket.recv_multipart())
            if reply.id == number:
                break
        if isinstance(reply, p.Refused):
            raise RefusedError(reply)
        return reply

    def hello(self, token: str) -> p.Welcome:
        welcome = self.ask(p.Hello, version=p.PROTOCOL_VERSION, token=token)
        assert isinstance(welcome, p.Welcome)
        return welcome

    def watch(self, welcome: p.Welcome) -> None:
        """Subscribe to the owner's announcements."""
        self.news.subscribe(welcome.ticket)
        self.news.connect(f"tcp://{self.invitation.host}:{welcome.news_port}")

    def submit(self, payload: Payload, *, key: str | None = None, priority: int = 0) -> Job:
        return self.ask(p.Submit, key=key or new_key(), payload=payload, priority=priority).job

    def job(self, job: str) -> Job:
        return self.ask(p.GetJob, job=job).job

    def wait(self, job: str, *states: str, patience_s: float = PATIENCE_S) -> Job:
        """Wait until a job is in one of some states; any that is for good if none are named."""
        wanted = states or (*ENDED, *RESTING)

        def look() -> Job | None:
            found = self.job(job)
            assert found.state in wanted or found.state not in ENDED, f"{found.state}: {found.message}"
            return found if found.state in wanted else None

        try:
            return until(look, patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self._told(job)}") from error

    def _told(self, job: str) -> str:
        """Say how all jobs stand, and where the processes of one are that run."""
        jobs = self.ask(p.ListJobs).jobs
        for pid, _ in seats():
            if b"nursery" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, SHOW_STACK)
        time.sleep(1)  # so long they have to write it down
        states = [f"{one.name} {one.id} {one.state} {one.workers} {one.message}" for one in jobs]
        return "\n".join([*states, *(f"{one.name}: {self.log(one.id)}" for one in jobs)])

    def events(self, job: str) -> list[JobEvent]:
        found: list[JobEvent] = []
        while True:
            page = self.ask(p.GetEvents, job=job, after=len(found))
            found += page.events
            if len(found) >= page.latest:
                return found

    def log(self, job: str) -> str:
        return self.ask(p.GetLog, job=job).data.decode()

    def close(self) -> None:
        self.socket.close()
        self.news.close()


class ServerProcess:
    """``openhcs-jupyter serve`` on a free port."""

    def __init__(self, state: Path, *options: str, within: tuple[str, ...] = (), **environment: str) -> None:
        self.state = state
        self._within = within
        self._options = options
        self._environment = environment
        self._clients: list[Client] = []
        self.start()

    def start(self) -> None:
        self.log = self.state.with_suffix(".log")
        bind = getattr(self, "invitation", None)
        port = bind.port if bind else 0
        with self.log.open("ab") as log:
            position = log.tell()
            self.process = subprocess.Popen(
                [
                    *self._within, sys.executable, "-m", "openhcs_jupyter.cli", "serve", "--state", str(self.state),
                    "--bind", f"tcp://127.0.0.1:{port}", *self._options,
                ],
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
            )  # fmt: skip

        def listening() -> str | None:
            with self.log.open() as file:
                file.seek(position)
                text = file.read()
            assert self.process.poll() is None, text
            found = re.search(r"Listening: (\S+)", text)
            return found[1] if found else None

        self.invitation = read_invitation(until(listening))

    @property
    def token(self) -> str:
        return read_token(self.state / "token")

    def client(self, token: str | None = None) -> Client:
        """Return a client that has said who it is."""
        made = self.stranger()
        made.hello(token or self.token)
        return made

    def stranger(self) -> Client:
        made = Client(self.invitation)
        self._clients.append(made)
        return made

    def seats(self) -> set[str]:
        """Return the marks of all processes that belong to it: of jobs, past ones too, and of what jobs come from."""
        mark = (self.state / "mark").read_text()
        return {seat for _, seat in seats() if seat.startswith(mark)}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def running(state: Path, *options: str, within: tuple[str, ...] = (), **environment: str) -> Iterator[ServerProcess]:
    """Run a server, and end all that its jobs have left."""
    made = ServerProcess(state, *options, within=within, **environment)
    try:
        yield made
    finally:
        made.close()
        for seat in made.seats():
            end_all(seat)


def payload(cell: str, name: str = "nuclei", *, before: str = "", **options: object) -> Payload:
    return Payload(name=name, cell=cell, before=before, options=RunOptions(name=name, **options))


def computed(events: list[JobEvent]) -> list[int]:
    """List the units that were computed, as often as they were."""
    return sorted(one.event.unit for one in events if isinstance(one.event, UnitDone) and not one.event.reused)


def finished(events: list[JobEvent]) -> set[int]:
    """Return the units that were computed or found again: who is killed right after a unit has not told of it yet."""
    return {one.event.unit for one in events if isinstance(one.event, UnitDone)}
