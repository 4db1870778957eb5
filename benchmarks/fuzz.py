"""Coverage-guided fuzzing (atheris) of what strangers send: messages of the stream, planes, requests to the server."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.processes import CHECKOUT, environment
from benchmarks.report import report

GOALS = {"crashes": ("==", 0), "hangs": ("==", 0), "memory_mb": ("<=", 1024)}
_SLOWEST_S = 10
_OPEN = ExitStack()
"""What stays open until the process ends."""
Try = Callable[[bytes], None]


def stream() -> Try:
    """Hand bytes to a pixel server and to a viewer's session; the server must serve the next viewer as before."""
    import numpy as np

    from openhcs_jupyter.streaming import wire
    from openhcs_jupyter.streaming.board import Board
    from openhcs_jupyter.streaming.session import Session
    from tests.streaming.test_wire import PEER, joined, pixels

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    pair = _OPEN.enter_context(joined(folder))
    count = 0

    def attempt(data: bytes) -> None:
        nonlocal count
        header, _, payload = data.partition(b"\xff\xfe")
        frames = [header, payload] if payload else [header]
        pair.server.handle(PEER, frames)
        pair.server.handle(b"stranger", frames)
        pair.session.handle(frames)
        pair.turn()
        count += 1
        if count % 2000 == 0:
            # What a viewer believes, it was told by its kernel; another one knows nothing of it.
            pair.here = Board()
            pair.session = Session(
                pair.here, lambda m: pair.to_kernel.append(wire.encode(m)), pair.fetchers, machine="here"
            )
            pair.session.begin()
            while not pair.session.is_connected:
                pair.turn()
            np.testing.assert_array_equal(pair.settle(pair.ask()), pixels()[0, 0])

    return attempt


def planes() -> Try:
    """Unpack damaged payloads: an error, never a crash or a byte beyond the plane."""
    import numpy as np

    from openhcs_jupyter.streaming.codecs import pack, unpack
    from openhcs_jupyter.streaming.frames import MalformedError

    rows = np.random.default_rng(1).integers(0, 4096, (40, 30)).astype(np.uint16)
    good = [bytes(pack(rows, codec)) for codec in ("raw", "lz4", "zstd")]
    around = np.full((44, 30), 7, np.uint16)

    def attempt(data: bytes) -> None:
        if len(data) < 4:
            return
        which, place = data[0] % 3, int.from_bytes(data[1:3], "little")
        payload = bytearray(good[which])
        place %= len(payload)
        payload[place : place + len(data) - 3] = data[3:]
        codec = ("raw", "lz4", "zstd")[which]
        for whole in (bytes(payload), data[3:]):
            with suppress(MalformedError):
                unpack(whole, codec, around[2:42])  # type: ignore[arg-type]  # one of the three
        assert (around[:2] == 7).all()
        assert (around[42:] == 7).all()

    return attempt


def requests() -> Try:
    """Read requests and replies of the execution server: messages or errors, nothing else."""
    from openhcs_jupyter.server import protocol
    from openhcs_jupyter.streaming.frames import MalformedError

    def attempt(data: bytes) -> None:
        for read, frames in (
            (protocol.read_request, [data]),
            (protocol.read_reply, [data]),
            (protocol.read_news, [b"ticket", data]),
        ):
            with suppress(MalformedError):
                read(frames)

    return attempt


def seeds(target: str) -> list[bytes]:
    """Return messages as they should be, from which the fuzzer starts."""
    from openhcs_jupyter.server import protocol
    from openhcs_jupyter.server.model import Payload
    from openhcs_jupyter.streaming import wire

    if target == "stream":
        part = wire.Part(id=1, session=1, version="v", dtype="uint16", shape=(40, 30), row=0, rows=40, codec="zstd")
        said = (
            wire.Hello(version=1, session=1), wire.Ask(after=0), wire.Ping(probe=64), wire.Credit(granted=1 << 20),
            wire.Want(id=1, run="run", layer=0, well=0, field=0, t=0, z=0), wire.Drop(ids=(1,)), wire.Bye(),
            wire.Welcome(version=1, session=1, epoch="e", name="k", machine="m", number=3), part,
        )  # fmt: skip
        return [*(wire.encode(message) for message in said), wire.encode(part) + b"\xff\xfe" + bytes(64)]
    if target == "requests":
        asked = (
            protocol.Hello(id=1, version=1, token="t"), protocol.GetJob(id=2, job="j"), protocol.ListJobs(id=3),
            protocol.Submit(id=4, key="0" * 32, payload=Payload(name="run", cell="pipeline_steps = []")),
            protocol.Fetch(id=5, job="j", file="plan.json"), protocol.Cancel(id=6, job="j"),
        )  # fmt: skip
        return [protocol.encode(message) for message in asked]
    return [bytes((codec, 0, 0, 1)) for codec in range(3)]


TARGETS = {"stream": stream, "planes": planes, "requests": requests}


def fuzz(target: str, seconds: int, folder: Path) -> tuple[int, int, int, int]:
    """Fuzz one target in a process of its own; returns executions, crashes, hangs and the peak memory in MB."""
    command = [
        sys.executable, "-m", "benchmarks.fuzz", "--target", target, f"-max_total_time={seconds}",
        "-print_final_stats=1", f"-timeout={_SLOWEST_S}", "-rss_limit_mb=4096",
        f"-artifact_prefix={folder}/{target}-", str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=seconds + 120, check=False
    )
    said = done.stderr

    def stat(name: str) -> int:
        found = re.search(rf"stat::{name}:\s+(\d+)", said)
        return int(found[1]) if found else 0

    executions = stat("number_of_executed_units")
    hangs = said.count("ERROR: libFuzzer: timeout")
    crashes = int(done.returncode != 0) - hangs
    if done.returncode:
        print(done.stdout[-2000:], said[-3000:], file=sys.stderr)
    print(f"  {target}: {executions:,} executions, {crashes} crashes, {hangs} hangs", flush=True)
    return executions, crashes, hangs, stat("peak_rss_mb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some seconds: shows that it runs")
    parser.add_argument("--seconds", type=int, default=300, metavar="S", help="for each target")
    options = parser.parse_args()
    seconds = 5 if options.quick else options.seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        each = []
        for target in TARGETS:
            (Path(name) / target).mkdir()
            for number, seed in enumerate(seeds(target)):
                (Path(name) / target / f"seed-{number}").write_bytes(seed)
            each.append(fuzz(target, seconds, Path(name) / target))
    executions, crashes, hangs, memory = zip(*each, strict=True)
    figures = {
        "executions": float(sum(executions)),
        "crashes": float(sum(crashes)),
        "hangs": float(sum(hangs)),
        "memory_mb": float(max(memory)),
    }
    report("fuzz", figures, GOALS)


def _child(target: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(
        include=["openhcs_jupyter.streaming", "openhcs_jupyter.server.protocol", "msgspec"]
    ):
        attempt = TARGETS[target]()
    atheris.Setup([sys.argv[0], *arguments], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        _child(sys.argv[2], sys.argv[3:])
    else:
        main()
