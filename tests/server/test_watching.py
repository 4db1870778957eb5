"""The server is woken when a journal grows or a process ends, and not too often."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.server.accounts import own_account
from openhcs_jupyter.server.processes import process_id
from openhcs_jupyter.server.watching import Pace, Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


def _wakes(watch: Watch) -> bool:
    return bool(select.select([watch], [], [], 0)[0])


def test_whoever_polls_is_woken_when_a_file_appears_or_grows(watch: Watch, tmp_path: Path) -> None:
    watch.add(tmp_path, own_account())
    watch.add(tmp_path, own_account())
    assert not _wakes(watch)
    for text in ("one\n", "two\n"):
        with (tmp_path / "journal.jsonl").open("a") as file:
            file.write(text)
        assert _wakes(watch)
        watch.clear()
        assert not _wakes(watch)
    watch.remove(tmp_path)
    watch.clear()
    (tmp_path / "another").touch()
    assert not _wakes(watch)


def test_whoever_polls_is_woken_when_a_process_ends(watch: Watch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        known = process_id(process.pid)
        assert known is not None
        watch.follow(known)
        watch.follow(known)
        assert not _wakes(watch)
        process.kill()
        assert select.select([watch], [], [], 60)[0]
        watch.clear()
        assert _wakes(watch), "until it is dismissed"
        watch.dismiss(known)
        assert not _wakes(watch)
    watch.follow(known)
    watch.dismiss(known)
    assert not _wakes(watch), "it has ended long ago"


def test_what_cannot_be_watched_is_left_to_the_next_look(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert watch.sees_all
    for place in (tmp_path / "absent", tmp_path / "file"):
        watch.add(place, own_account())
        assert not watch.sees_all
        watch.remove(place)
    assert watch.sees_all
    assert not _wakes(watch)
    watch.close()
    watch.add(tmp_path, own_account())


def test_what_is_rare_happens_at_once_and_what_is_frequent_in_its_turn() -> None:
    pace = Pace(3600, 3)
    for _ in range(3):
        assert pace.allows()
        pace.spend()
    assert not pace.allows()
    pace = Pace(1e-9, 3)
    for _ in range(10):
        assert pace.allows()
        pace.spend()
