"""The journal: whatever is cut off or still being written, its readers see a prefix of what was told."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.engine.journal import Journal, JournalReader
from openhcs_jupyter.events import AnyEvent, RunFinished, RunStarted, StoredFile, UnitDone, UnitFailed

moments = st.floats(0, 2e9)
counts = st.integers(0, 2**31)
texts = st.text(max_size=30)
seconds = st.floats(0, 1e6)
files = st.builds(StoredFile, name=texts, size=counts)
events = st.one_of(
    st.builds(RunStarted, time=moments, units=counts, kept=counts, workers=counts, pid=counts),
    st.builds(
        UnitDone,
        time=moments,
        unit=counts,
        fingerprint=texts,
        files=st.lists(files, max_size=3).map(tuple),
        read_s=seconds,
        compute_s=seconds,
        write_s=seconds,
        bytes_read=counts,
        reused=st.booleans(),
        steps_kept=counts,
    ),
    st.builds(
        UnitFailed,
        time=moments,
        unit=counts,
        well=st.none() | texts,
        field=st.none() | counts,
        step=st.none() | texts,
        line=st.none() | counts,
        message=texts,
        traceback=texts,
        because=st.none() | counts,
    ),
    st.builds(
        RunFinished,
        time=moments,
        status=st.sampled_from(["done", "failed", "cancelled"]),
        message=texts,
        results=st.none() | texts,
    ),
)


def event(number: int) -> AnyEvent:
    return RunFinished(time=float(number), status="done", message=f"event {number}\nof two lines")


def write(path: Path, story: list[AnyEvent]) -> None:
    with Journal(path) as journal:
        for one in story:
            journal.append(one)


@given(story=st.lists(events, max_size=6), data=st.data())
def test_any_cut_is_a_prefix(story: list[AnyEvent], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        write(path, story)
        assert list(JournalReader(path).read()) == story
        size = data.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, size)
        seen = list(JournalReader(path).read())
        assert seen == story[: len(seen)]
        # Whoever goes on writes after what is whole.
        write(path, story)
        assert list(JournalReader(path).read()) == seen + story


@given(story=st.lists(events, min_size=1, max_size=6), data=st.data())
def test_a_reader_that_follows_sees_every_event_once(story: list[AnyEvent], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, growing = Path(folder) / "whole", Path(folder) / "growing"
        write(whole, story)
        text = whole.read_bytes()
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
        reader = JournalReader(growing)
        seen = list(reader.read())
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            with growing.open("ab") as file:
                file.write(text[start:end])
            seen += reader.read()
        assert seen == story


def test_a_journal_that_is_not_there_has_no_events(tmp_path: Path) -> None:
    assert list(JournalReader(tmp_path / "none").read()) == []


def test_a_line_without_an_end_is_cut_off_when_the_journal_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, [event(1)])
    with path.open("ab") as file:
        file.write(b'{"event":"run-fin')
    write(path, [event(2)])
    assert list(JournalReader(path).read()) == [event(1), event(2)]


def test_a_journal_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"{" * 10_000)
    write(path, [event(1)])
    assert list(JournalReader(path).read()) == [event(1)]


def test_an_event_that_could_not_be_written_whole_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    original = os.write
    with Journal(path) as journal:
        journal.append(event(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: original(file, data[:10]))
            with pytest.raises(OSError, match="No space left") as caught:
                journal.append(event(2))
        assert caught.value.filename == str(path)
        journal.append(event(3))
    assert list(JournalReader(path).read()) == [event(1), event(3)]
