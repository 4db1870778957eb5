"""Programs for the two sides of a network: ``python -m tests.streaming.sides kernel|viewer|relay ...``."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import deque
from pathlib import Path

from openhcs_jupyter.streaming import ListeningSource, PlaneRequest, Priority, RemoteSource, Source, StreamServer
from openhcs_jupyter.streaming.keys import ConnectionFile, Endpoint, new_keys, read_private
from openhcs_jupyter.streaming.layers import AnyAnnouncement, LinkChanged, Progressed, StackReady
from openhcs_jupyter.streaming.source import Plane
from tests.streaming.heard import digest

_CHUNK = 1 << 16


def kernel(folder: str, host: str, *runs: str) -> None:
    """Serve runs until the input ends; further lines of input name further runs."""
    server = StreamServer(Path(folder), name="kernel", host=host, port=0, keys=new_keys())
    server.start()
    for run in runs:
        server.show(Path(run))
    say(ready=True)
    for line in sys.stdin:
        server.show(Path(line.strip()))
    server.close()


def viewer(file: str, runs: str, control: str = "", news: str = "") -> None:
    """Fetch all planes of so many runs as they are announced; say the digest of each when all have ended."""
    found = read_private(Path(file), ConnectionFile)
    endpoint = Endpoint(control=control, news=news) if control else found.endpoints[1]
    source = RemoteSource(endpoint, server_key=found.server_key, keys=found.viewer, mapping=False)
    watch(source, int(runs))


def listen(host: str, port: str, folder: str, runs: str) -> None:
    """Do the same, listening."""
    source = ListeningSource(host, int(port), called=host, folder=Path(folder), mapping=False)
    say(line=source.invitation.line())
    watch(source, int(runs))


def watch(source: Source, count: int) -> None:
    """Fetch everything, and say ``link`` as it changes, and ``digests`` at the end."""
    news = threading.Condition()
    digests: dict[str, str] = {}
    wanted: set[str] = set()
    ended: set[str] = set()

    def arrived(key: str, plane: Plane) -> None:
        with news:
            digests[key] = digest(plane.array)
            news.notify()

    def hear(announcement: AnyAnnouncement) -> None:
        if isinstance(announcement, LinkChanged):
            say(link=announcement.link)
        elif isinstance(announcement, StackReady):
            fetch(announcement)
        elif isinstance(announcement, Progressed):
            with news:
                if announcement.status != "running":
                    ended.add(announcement.run)
                news.notify()

    def fetch(a: StackReady) -> None:
        for t in range(a.size_t):
            for z in range(a.size_z):
                key = f"{a.run} {a.layer} {a.well} {a.field} {t} {z}"
                with news:
                    wanted.add(key)
                request = PlaneRequest(run=a.run, layer=a.layer, well=a.well, field=a.field, t=t, z=z,
                                       priority=Priority.BACKGROUND)  # fmt: skip
                source.fetch(request).add_done_callback(lambda future, key=key: arrived(key, future.result()))

    def finish() -> None:
        with news:
            news.wait_for(lambda: len(ended) == count and len(digests) == len(wanted))
        say(digests=digests)

    with source:
        source.subscribe(hear)
        threading.Thread(target=finish, daemon=True).start()
        for line in sys.stdin:
            say(heard=line.strip(), planes=len(digests))


def relay(here: str, host: str, target: str, delay_s: str) -> None:
    """Pass a port, or a Unix socket, on to a port of another machine, later: so long in each direction."""
    asyncio.run(_relay(here, host, int(target), float(delay_s)))


async def _relay(here: str, host: str, target: int, delay: float) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: deque[tuple[float, bytes]] = deque()
        news = asyncio.Event()
        room = asyncio.Semaphore(64)  # no more is on its way than a cable holds
        loop = asyncio.get_running_loop()

        async def send() -> None:
            while True:
                while not held:
                    news.clear()
                    await news.wait()
                due, data = held.popleft()
                room.release()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        sender = asyncio.create_task(send())
        data = b"-"
        while data:
            try:
                data = await reader.read(_CHUNK)
            except OSError:
                data = b""
            await room.acquire()
            held.append((loop.time() + delay, data))
            news.set()
        await asyncio.wait([sender])

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, target)
        except OSError:
            writer.close()
            return
        await asyncio.wait([asyncio.create_task(pass_on(reader, back)), asyncio.create_task(pass_on(there, writer))])

    if "/" in here:
        await asyncio.start_unix_server(take, here)
    else:
        await asyncio.start_server(take, "127.0.0.1", int(here))
    say(ready=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"kernel": kernel, "viewer": viewer, "listen": listen, "relay": relay}[sys.argv[1]](*sys.argv[2:])
