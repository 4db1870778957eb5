"""Files are there whole or not at all."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openhcs_jupyter.files import write_whole
from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.keys import SavedSession, save_session, saved_session


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 200_000 for number in range(8)]
    begin = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        begin.wait()
        for _ in range(20):
            write_whole(path, content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as threads:
        assert len(list(threads.map(write, contents))) == len(contents)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o640)])
def test_a_private_file_is_its_owner_s_only(tmp_path: Path, private: bool, mode: int) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"text", private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "place", b"text")
    assert list(tmp_path.iterdir()) == [tmp_path / "place"]


def test_a_session_is_saved_beside_what_a_killed_process_of_the_same_number_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    address, session = parse_address("omero://ada@localhost"), SavedSession(key="key", user="ada", group=3)
    save_session(address, session)
    (file,) = (tmp_path / "openhcs-jupyter" / "omero").iterdir()
    file.with_name(f".{file.name}.{os.getpid()}").touch()
    save_session(address, session)
    assert saved_session(address) == session
