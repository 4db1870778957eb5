"""Files are there whole or not at all, and secrets where nobody else can replace them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.files import write_whole
from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.keys import SavedSession, save_session, saved_session
from openhcs_jupyter.server.folders import Folders
from openhcs_jupyter.streaming.keys import private_folder


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


@pytest.mark.parametrize("keep", ["keys", "server", "session"])
def test_secrets_lie_where_not_everybody_can_replace_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "shared" / "deep"))

    def kept() -> None:
        if keep == "keys":
            private_folder(tmp_path / "shared" / "deep" / "own")
        elif keep == "server":
            Folders(tmp_path / "shared" / "deep" / "own", several=False).close()
        else:
            save_session(parse_address("omero://ada@localhost"), SavedSession(key="key", user="ada", group=3))

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(OpenHCSError, match=f"can replace what lies in {shared}") as told:
        kept()
    assert told.value.hint is not None
    assert f"chmod o-w {shared}" in told.value.hint
    for mode in (0o1777, 0o775, 0o755):
        shared.chmod(mode)
        kept()


def test_a_link_does_not_hide_where_a_folder_lies(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(OpenHCSError, match="can replace"):
        private_folder(tmp_path / "link" / "own")
