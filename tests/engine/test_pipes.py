"""Objects between a run's conductor and its workers: whole, in order, and an end that is noticed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from openhcs_jupyter.engine.pipes import Pipe


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    made = [Pipe(end) for end in socket.socketpair()]
    yield made[0], made[1]
    for end in made:
        end.close()


def test_what_is_sent_arrives_whole_and_in_order(ends: tuple[Pipe, Pipe]) -> None:
    sent = [b"", {"unit": 1}, bytes(5_000_000), ["last"]]  # the third is more than a socket holds
    sender = threading.Thread(target=lambda: [ends[0].send(value) for value in sent])
    sender.start()
    assert [ends[1].recv() for _ in sent] == sent
    sender.join()


@pytest.mark.parametrize("half", [False, True])
def test_an_end_that_is_gone_is_noticed(ends: tuple[Pipe, Pipe], *, half: bool) -> None:
    if half:
        os.write(ends[0].fileno(), b"\x09\0\0")  # it died while it wrote
    ends[0].close()
    with pytest.raises(EOFError):
        ends[1].recv()
    with pytest.raises(OSError, match="Broken pipe"):
        ends[1].send("nobody hears it")
