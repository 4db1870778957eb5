"""What is malformed, cut, huge or said twice costs neither side anything: no crash, no growth, no wrong plane."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming import PlaneRequest, wire
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.codecs import pack, plane_dtype, unpack
from openhcs_jupyter.streaming.fetching import Fetchers
from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.layers import Layer, LayerKnown, Progressed, RunAnnounced, RunView, StackReady, WellPlace
from openhcs_jupyter.streaming.serving import PixelServer
from openhcs_jupyter.streaming.session import Session
from tests.engine.bench import until

EXAMPLES = int(os.environ.get("OPENHCS_TEST_EXAMPLES", "150"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SIZE = (40, 30)
PEER = b"peer"


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4096, (1, 2, *SIZE)).astype(np.uint16)


def view(folder: Path) -> RunView:
    layer = Layer(index=0, name="image", result="image", kind="image", scope="field")
    well = WellPlace(row=0, column=0, fields=(), units=1)
    return RunView(
        id="run", name="run", plate="p", rows=8, columns=12, wells=(well,), fields=(1,), layers=(layer,), units=1,
        started="now", folder=str(folder),
    )  # fmt: skip


def stack() -> StackReady:
    return StackReady(
        run="run", layer=0, well=0, field=0, version="v", file="image.npy", size_t=1, size_z=2, size_y=SIZE[0],
        size_x=SIZE[1], low=0, high=1,
    )  # fmt: skip


class Pair:
    """A kernel's and a viewer's side, joined by two lists instead of sockets."""

    def __init__(self, folder: Path) -> None:
        np.save(folder / "image.npy", pixels())
        self.to_viewer: list[list[bytes]] = []
        self.to_kernel: list[bytes] = []
        self.there, self.here = Board(), Board()
        self.there.post(RunAnnounced(view=view(folder)))
        self.there.post(stack())
        self.there.post(Progressed(run="run", status="done", done=1, failed=0))
        self.fetchers = Fetchers(1)
        self.server = PixelServer(self.there, self._send, lambda: None, name="k", machine="there", epoch="e")
        self.session = Session(
            self.here, lambda m: self.to_kernel.append(wire.encode(m)), self.fetchers, machine="here"
        )

    def _send(self, peer: bytes, frames: Any) -> bool:
        self.to_viewer.append([bytes(frame) for frame in frames])
        return True

    def turn(self) -> None:
        """Hand over what each side has for the other."""
        self.server.pump()
        for frame in self.take(self.to_kernel):
            self.server.handle(PEER, [frame])
        self.server.pump()
        for frames in self.take(self.to_viewer):
            self.session.handle(frames)

    @staticmethod
    def take(messages: list[Any]) -> list[Any]:
        taken, messages[:] = list(messages), []
        return taken

    def ask(self, z: int = 0) -> Future[Any]:
        future: Future[Any] = Future()
        self.session.request(PlaneRequest(run="run", layer=0, well=0, field=0, t=0, z=z), future)
        return future

    def settle(self, future: Future[Any]) -> np.ndarray:
        def done() -> bool:
            self.turn()
            return future.done()

        until(done, "the plane", 10)
        return future.result().array

    def close(self) -> None:
        self.session.close()
        self.server.close()
        self.fetchers.close()


@contextmanager
def joined(folder: Path) -> Iterator[Pair]:
    pair = Pair(folder)
    try:
        pair.session.begin()
        until(lambda: pair.turn() or pair.here.number >= 3, "the announcements", 10)
        yield pair
    finally:
        pair.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with joined(tmp_path) as made:
        yield made


def test_a_plane_goes_across(pair: Pair) -> None:
    np.testing.assert_array_equal(pair.settle(pair.ask(1)), pixels()[0, 1])


def headers() -> st.SearchStrategy[bytes]:
    """Make bytes, values, and messages with any fields of the right types."""
    kinds = [*wire.FromViewer.__args__, *wire.FromKernel.__args__]
    messages = st.one_of(
        st.builds(lambda kind=kind: kind).flatmap(
            lambda k: st.fixed_dictionaries({f.encode_name: _value(f) for f in msgspec.structs.fields(k)}).map(
                lambda values, k=k: msgspec.msgpack.encode({"is": k.__struct_config__.tag, **values})
            )
        )
        for kind in kinds
    )
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ).map(msgspec.msgpack.encode)
    return st.one_of(messages, values, st.binary(max_size=200))


def _value(field: Any) -> st.SearchStrategy[Any]:
    whole = st.one_of(st.integers(-3, 50), st.integers(-(2**63), 2**63))
    by_type = {
        int: whole,
        float: st.floats(),
        bool: st.booleans(),
        str: st.sampled_from(["run", "e", "", "v", "uint16", "object", "M8[s]", "raw"]) | st.text(max_size=20),
        tuple[int, int]: st.tuples(whole, whole),
        tuple[int, ...]: st.lists(whole, max_size=5),
        wire.Codec: st.sampled_from(["raw", "lz4", "zstd", "gzip"]),
        wire.Told: st.just(msgspec.to_builtins(stack())) | st.none(),
        tuple[wire.Told, ...]: st.lists(st.just(msgspec.to_builtins(stack())), max_size=3),
    }
    return by_type.get(field.type, st.none())


@FUZZ
@given(messages=st.lists(st.tuples(headers(), st.none() | st.binary(max_size=400)), max_size=8))
def test_nonsense_breaks_neither_side(tmp_path: Path, messages: list[tuple[bytes, bytes | None]]) -> None:
    with joined(tmp_path) as pair:
        future = pair.ask()
        for header, payload in messages:
            frames = [header] if payload is None else [header, payload]
            pair.server.handle(PEER, frames)
            pair.server.handle(b"stranger", frames)
            pair.session.handle(frames)
            pair.turn()
        pair.session.begin()  # as after a connection that was lost
        until(lambda: pair.turn() or pair.session.is_connected, "the connection", 10)
        if not future.done() or (not future.cancelled() and future.exception() is not None):
            future = pair.ask()
        np.testing.assert_array_equal(pair.settle(future), pixels()[0, 0])


@FUZZ
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_damaged_planes_are_errors_and_never_pixels(tmp_path: Path, seed: int, cut: bool) -> None:
    chance = random.Random(seed)
    rows = pixels()[0, 0]
    for codec in ("raw", "lz4", "zstd"):
        payload = bytearray(pack(rows, codec))
        out = np.zeros_like(rows)
        unpack(bytes(payload), codec, out)
        np.testing.assert_array_equal(out, rows)
        wrong = payload[: chance.randrange(len(payload))] if cut else payload + bytes(chance.randrange(1, 50))
        with pytest.raises(MalformedError):
            unpack(bytes(wrong), codec, out)
        flipped = bytearray(pack(rows, codec))
        for _ in range(5):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        with suppress(MalformedError):  # found where the format can tell, and never a crash
            unpack(bytes(flipped), codec, out)


@FUZZ
@given(parts=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 12)), max_size=24), last=st.integers(0, 11))
def test_what_is_said_twice_or_out_of_order_is_known_once(
    tmp_path: Path, parts: list[tuple[int, int]], last: int
) -> None:
    with joined(tmp_path) as pair:
        heard: list[int] = []
        pair.here.subscribe(lambda told: heard.append(told.done) if isinstance(told, Progressed) else None)
        heard.clear()
        at = pair.there.number
        told = [Progressed(run="run", status="running", done=i, failed=0) for i in range(12)]
        for one in told:
            pair.there.post(one)
        for begin, count in (*parts, (last, 12)):
            news = wire.News(epoch="e", number=at + 1 + begin, announcements=tuple(told[begin : begin + count]))
            pair.session.handle([wire.encode(news)])
            pair.turn()
        assert pair.here.latest(("progress", "run", None)) == told[-1]
        assert pair.session.at == at + 12
        assert heard == sorted(set(heard))


def test_a_viewer_that_grants_nothing_gets_nothing_and_costs_nothing(pair: Pair) -> None:
    sent: list[Any] = []
    server = PixelServer(pair.there, lambda peer, frames: sent.append(frames) or True, lambda: None,
                         name="k", machine="m", epoch="e")  # fmt: skip
    server.handle(PEER, [wire.encode(wire.Hello(version=1, session=5))])
    for number in range(10_000):
        server.handle(PEER, [wire.encode(wire.Want(id=number, run="run", layer=0, well=0, field=0, t=0, z=0))])
    until(lambda: server.pump() or server.prepared == 3, "what is prepared ahead", 10)
    assert len(sent) == 1 + 10_000 - 4096  # the greeting, and what is refused
    assert server.prepared == 3
    sent.clear()
    server.handle(PEER, [wire.encode(wire.Credit(granted=1))])
    server.handle(PEER, [wire.encode(wire.Credit(granted=1))])  # a replayed credit is worth nothing
    server.pump()
    assert len(sent) == 1
    server.close()


def test_a_part_that_does_not_fit_is_an_error_for_who_asked(pair: Pair) -> None:
    future = pair.ask()
    part = wire.Part(id=1, session=pair.session.number, version="v", dtype="uint16", shape=(8000, 8000), row=0, rows=1,
                     codec="raw")  # fmt: skip
    pair.session.handle([wire.encode(part), bytes(16000)])
    with pytest.raises(StreamError, match="damaged"):
        future.result(0)
    for name in ("object", "M8[s]", "V9999", "uint16,uint16", "no such"):
        with pytest.raises(MalformedError):
            plane_dtype(name)


def test_a_layer_that_grows_is_told_again(pair: Pair) -> None:
    grown = LayerKnown(run="run", layer=msgspec.structs.replace(view(Path()).layers[0], dtype="uint16", size_y=9))
    number = pair.there.post(grown)
    pair.session.handle([wire.encode(wire.News(epoch="e", number=number, announcements=(grown,)))])
    assert pair.here.latest(("layer", "run", 0)) == grown


def test_what_one_kernel_announces_keeps_no_other_one_alive(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    news = wire.News(epoch="another", number=1, announcements=(stack(),))
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    pair.session.overhear([wire.encode(news)])
    pair.session.overhear([wire.encode(wire.Bye())])
    assert pair.session.is_connected
    pair.session.tick()
    assert not pair.session.is_connected


def test_a_kernel_of_another_version_is_refused(pair: Pair) -> None:
    pair.session.begin()
    welcome = wire.Welcome(version=99, session=pair.session.number, epoch="f", name="k", machine="m", number=0)
    pair.session.handle([wire.encode(welcome)])
    assert pair.here.latest(("link",)).link == "refused"
