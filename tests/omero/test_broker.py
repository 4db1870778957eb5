"""The broker as a process of its own: what it hands out, to whom, and what it does with those who want more."""

from __future__ import annotations

import array
import contextlib
import grp
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.kernel.doctor import examine
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.broker.client import BrokerClient, BrokerError
from openhcs_jupyter.repository.omero.broker.files import Folders, OutsideError
from openhcs_jupyter.repository.omero.broker.limits import Limits
from openhcs_jupyter.repository.omero.broker.protocol import Check, Open, encode, read_request
from openhcs_jupyter.repository.omero.broker.server import Broker, Options
from openhcs_jupyter.repository.omero.romio import path_of
from tests.omero.brokers import BrokerProcess, client, first_image
from tests.omero.lab import Lab

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(os.environ.get("OMERO_HOST")), reason="another machine has the repository's files"),
]


@pytest.fixture(scope="module")
def broker(lab: Lab) -> Iterator[BrokerProcess]:
    with BrokerProcess(lab, "--plates") as running:
        yield running


@pytest.fixture
def ada(lab: Lab, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[OmeroRepository]:
    monkeypatch.setenv("OPENHCS_OMERO_BROKER", str(broker.socket))
    with lab.join("ada") as repository:
        yield repository


class TestReading:
    def test_pixels_are_mapped_and_omero_is_asked_for_none(self, lab: Lab, ada: OmeroRepository) -> None:
        number, made = lab.made_by_client
        plate = ada.plate(number)
        lab.server.ask(calls=True)
        for well, field in plate.fields():
            with ada.open(field.images[0]) as source:
                np.testing.assert_array_equal(source.plane(0, 1, 2), made.plane(well.name, field.number, 1, 2))
        assert not [call for call in lab.server.ask(calls=True)["calls"] if call.startswith("RawPixels")]

    def test_a_grant_leaves_a_line_that_names_all_but_the_session(
        self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess
    ) -> None:
        _, _, image = first_image(ada, lab.made_by_client[0])
        ada.open(image).close()
        line = broker.audited(f'"image":{image.id},')
        assert (line["outcome"], line["user"], line["uid"], line["pid"]) == ("granted", "ada", os.getuid(), os.getpid())
        assert line["file"] == str(path_of("Pixels", int(image.version.split(":")[0])))
        assert ada.connection.key not in "\n".join(broker.log())

    def test_descriptors_can_only_be_read(self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess) -> None:
        _, _, image = first_image(ada, lab.made_by_client[0])
        with client(broker, ada) as asks:
            (descriptor,) = asks.open(image.id)
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(descriptor, b"x")
        finally:
            os.close(descriptor)

    def test_files_of_an_import_are_handed_out_by_their_names(
        self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess
    ) -> None:
        number, made = lab.imported
        well, field, image = first_image(ada, number)
        managed = lab.sample.repository.managed
        files = [made.file(well, field, c, z) for c, z in ((1, 2), (0, 0), (1, 0))]
        with client(broker, ada) as asks:
            descriptors = asks.open(image.id, [str(file.relative_to(managed)) for file in files])
            assert [os.fstat(one).st_ino for one in descriptors] == [file.stat().st_ino for file in files]
            for one in descriptors:
                os.close(one)
            known = str(files[0].relative_to(managed))
            for other in (f"../{known}", "../../Pixels/1", f"{known}/../{files[1].name}", known.replace("/", "//")):
                with pytest.raises(BrokerError, match="not imported from a file of that name"):
                    asks.open(image.id, [known, other])

    def test_imported_files_are_mapped_and_omero_is_asked_for_none(
        self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess
    ) -> None:
        number, made = lab.imported
        plate = ada.plate(number)
        images = [field.images[0] for _, field in plate.fields()]
        assert ada.told_of(images) == ("4 of 4 images are read in place, 4 through the broker.",)
        lab.server.ask(calls=True)
        for well, field in plate.fields():
            with ada.open(field.images[0]) as source:
                for c, z in np.ndindex(2, 3):
                    np.testing.assert_array_equal(source.plane(0, c, z), made.plane(well.name, field.number, c, z))
                source.verify()
        assert not [call for call in lab.server.ask(calls=True)["calls"] if call.startswith("RawPixels")]
        file = made.file("B02", 2, 1, 2)
        line = broker.audited(file.name)
        assert (line["outcome"], line["user"], line["bytes"]) == ("granted", "ada", file.stat().st_size)

    def test_doctor_shows_the_policy(self, ada: OmeroRepository, broker: BrokerProcess) -> None:
        (found,) = [one for one in examine() if one.what == "OMERO broker"]
        assert found.state == "ok"
        assert "images of plates" in found.found


class TestRefusals:
    def test_images_of_plates_are_not_handed_out_unless_the_administrator_says_so(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        number, made = lab.made_by_client
        with BrokerProcess(lab) as strict:
            monkeypatch.setenv("OPENHCS_OMERO_BROKER", str(strict.socket))
            with lab.join("ada") as ada:
                well, field, image = first_image(ada, number)
                place = ada.places_of(number)[image.id]
                assert "policy does not allow plates" in place.why
                with ada.open(image) as source:  # through the server
                    np.testing.assert_array_equal(source.plane(0, 0, 0), made.plane(well, field, 0, 0))
                with pytest.raises(BrokerError, match="restricts binary access"), client(strict, ada) as asks:
                    asks.open(image.id)
            assert "restricted" in strict.audited('"outcome":"refused"')["why"]

    def test_an_image_of_another_group(self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess) -> None:
        with lab.join("mallory") as mallory:
            _, _, hidden = first_image(mallory, lab.private[0])
        with client(broker, ada) as asks, pytest.raises(BrokerError, match="there is none that you may see"):
            asks.open(hidden.id)

    def test_a_session_that_has_ended(self, lab: Lab, broker: BrokerProcess) -> None:
        ended = BrokerClient(broker.socket, lambda: "00000000-0000-4000-8000-000000000000")
        with ended, pytest.raises(BrokerError, match="it has ended"):
            ended.open(1)

    def test_a_missing_file(self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess) -> None:
        _, _, image = first_image(ada, lab.made_by_client[0])
        path = lab.server.binary_repository / path_of("Pixels", int(image.version.split(":")[0]))
        path.rename(path.with_suffix(".away"))
        try:
            with client(broker, ada) as asks, pytest.raises(BrokerError, match="No such file"):
                asks.open(image.id)
            path.symlink_to("/etc/passwd")
            with client(broker, ada) as asks, pytest.raises(BrokerError, match="leads out of the folders"):
                asks.open(image.id)
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".away").rename(path)

    def test_another_account_reads_with_a_session_and_only_with_one(
        self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess
    ) -> None:
        if os.getuid() != 0:
            pytest.skip("only root can become somebody else")
        number, made = lab.made_by_client
        well, field, image = first_image(ada, number)
        lab.server.binary_repository.chmod(0o700)
        program = (
            "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "path, key, image, repository = sys.argv[1:]\n"
            "try: os.listdir(repository); raise SystemExit('the repository is open')\n"
            "except PermissionError: pass\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(path)\n"
            'ask = \'{"type":"open","session":"%s","image":%s}\'\n'
            "s.send((ask % ('0' * 8 + '-0000-0000-0000-' + '0' * 12, image)).encode())\n"
            "said, got, _, _ = socket.recv_fds(s, 9999, 1); assert not got and b'refused' in said, said\n"
            "s.send((ask % (key, image)).encode())\n"
            "said, got, _, _ = socket.recv_fds(s, 9999, 1); assert got, said\n"
            "sys.stdout.buffer.write(os.pread(got[0], 8, 0))\n"
        )
        command = [sys.executable, "-c", program, broker.socket, ada.connection.key, image.id]
        told = subprocess.run(
            [*map(str, command), lab.server.binary_repository], capture_output=True, check=True, timeout=60
        ).stdout
        expected = made.plane(well, field, 0, 0).ravel()[:4]
        np.testing.assert_array_equal(np.frombuffer(told, ">u2"), expected)
        assert broker.audited('"uid":65534,"user":"ada"')["outcome"] == "granted"

    def test_a_group_that_is_not_there(self, lab: Lab, tmp_path: Path) -> None:
        options = ["--socket", tmp_path / "s", "--repository", lab.server.binary_repository, "--group", "no such group"]
        command = [sys.executable, "-m", "openhcs_jupyter.cli", "broker", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "no group 'no such group'" in done.stderr
        assert "no such group" not in [one.gr_name for one in grp.getgrall()]


class TestFaults:
    def test_a_broker_that_is_killed_and_started_again(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        number, made = lab.made_by_client
        with BrokerProcess(lab, "--plates") as broker:
            monkeypatch.setenv("OPENHCS_OMERO_BROKER", str(broker.socket))
            with lab.join("ada") as ada:
                well, field, image = first_image(ada, number)
                with ada.open(image) as source:
                    broker.kill()
                    # What was handed out stays readable.
                    np.testing.assert_array_equal(source.plane(0, 0, 0), made.plane(well, field, 0, 0))
                again = threading.Timer(0.5, broker.start)
                again.start()
                with ada.open(image) as source:  # waits for it
                    np.testing.assert_array_equal(source.plane(0, 1, 0), made.plane(well, field, 1, 0))
                again.join()
                broker.kill()
                with client(broker, ada, patience_s=0.3) as asks, pytest.raises(BrokerError, match="does not answer"):
                    asks.open(image.id)
                # A plate that is loaded now comes through the server, and says so.
                well, field, image = first_image(ada, number)
                assert "does not answer" in ada.places_of(number)[image.id].why
                with ada.open(image) as source:
                    np.testing.assert_array_equal(source.plane(0, 1, 2), made.plane(well, field, 1, 2))
            broker.start()

    def test_a_second_broker_at_the_same_socket(self, lab: Lab, broker: BrokerProcess) -> None:
        done = subprocess.run(broker._command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "Another broker listens" in done.stderr

    def test_sigterm_ends_it_and_takes_its_socket_away(self, lab: Lab) -> None:
        with BrokerProcess(lab) as running:
            running.kill(signal.SIGTERM)
            assert running._process is not None
            assert running._process.returncode == 0
            assert not running.socket.exists()
            running.start()

    def test_a_socket_in_a_folder_that_others_may_write_is_not_trusted(self, lab: Lab, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir(mode=0o777)
        (tmp_path / "open").chmod(0o777)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trap:
            trap.bind(str(tmp_path / "open" / "socket"))
            trap.listen()
            asks = BrokerClient(tmp_path / "open" / "socket", lambda: pytest.fail("the key was asked for"), 0.0)
            with asks, pytest.raises(BrokerError, match="others than the broker may write"):
                asks.policy()

    def test_too_many_requests_are_slowed_and_not_lost(self, lab: Lab, ada: OmeroRepository) -> None:
        with BrokerProcess(lab, "--rate", "5") as slow, client(slow, ada) as asks:
            assert {asks.policy().requests_per_s for _ in range(14)} == {5.0}


class Talk:
    """A connection that sends what it likes."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        self.socket.connect(str(broker.socket))

    def say(self, data: bytes, descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([data], rights)
        answer, got, _, _ = socket.recv_fds(self.socket, 65536, 8)
        assert not got
        told: dict[str, Any] = json.loads(answer)
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=10), of, max_size=4),
    max_leaves=10,
)
NEARLY = st.fixed_dictionaries(
    {"type": st.sampled_from(["open", "check", "grant", "root", ""])},
    optional={
        "session": JSON | st.just("00000000-0000-4000-8000-000000000000"),
        "image": JSON | st.integers(),
        "images": JSON | st.lists(st.integers(), max_size=400),
        "files": JSON | st.lists(st.sampled_from(["../../etc/passwd", "/etc/passwd", "a\0b", "", "x" * 5000])),
        "ahead": JSON,
    },
)


class TestHostile:
    @settings(max_examples=150, deadline=None)
    @given(data=st.binary(min_size=1, max_size=200) | (NEARLY | JSON).map(lambda one: json.dumps(one).encode()))
    def test_whatever_is_sent_is_a_request_or_an_error(self, data: bytes) -> None:
        with contextlib.suppress(RepositoryError):  # anything else is a bug
            read_request(data)

    @settings(max_examples=60, deadline=None)
    @given(data=st.binary(min_size=1, max_size=200) | NEARLY.map(lambda one: json.dumps(one).encode()))
    def test_the_broker_refuses_and_goes_on(self, broker: BrokerProcess, data: bytes) -> None:
        with Talk(broker) as talk:
            assert talk.say(data)["type"] == "refused"
            assert talk.say(b'{"type":"hello"}')["type"] == "policy"

    def test_more_than_a_message_holds(self, broker: BrokerProcess) -> None:
        with Talk(broker) as talk:
            assert talk.say(b" " * 40_000 + b'{"type":"hello"}')["code"] == "request"

    def test_descriptors_that_a_kernel_sends_are_dropped(self, broker: BrokerProcess) -> None:
        process = broker._process
        assert process is not None
        before = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        with Talk(broker) as talk, Path("/dev/null").open() as null:
            for _ in range(50):
                assert talk.say(b'{"type":"hello"}', (null.fileno(),) * 3)["type"] == "policy"
            assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) <= before + 1

    def test_a_kernel_that_asks_on_without_reading_is_left(self, broker: BrokerProcess) -> None:
        with Talk(broker) as talk:
            with contextlib.suppress(BrokenPipeError):
                for _ in range(20):
                    talk.socket.send(b'{"type":"hello"}')
            broker.wait_for("asks on without reading its answers")
            answers = 0
            with contextlib.suppress(ConnectionResetError):
                while talk.socket.recv(65536):
                    answers += 1
            assert answers < 20
        with Talk(broker) as talk:
            assert talk.say(b'{"type":"hello"}')["type"] == "policy"

    def test_a_machine_without_room_for_another_thread(
        self, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = Options(
            socket=tmp_path / "s", server=parse_address("omero://localhost"), repository=lab.server.binary_repository
        )
        start, refused = threading.Thread.start, []

        def start_later(thread: threading.Thread) -> None:
            if thread.name != "serving" and not refused:
                refused.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        with Broker(options) as running:
            serving = threading.Thread(target=running.serve, name="serving")
            start(serving)
            monkeypatch.setattr(threading.Thread, "start", start_later)
            with BrokerClient(tmp_path / "s", lambda: "") as asks:
                assert not asks.policy().plates
            running.stop()
            serving.join(10)
        assert refused

    def test_a_name_and_its_password_are_no_session(self, broker: BrokerProcess) -> None:
        with Talk(broker) as talk:
            assert talk.say(b'{"type":"open","session":"guest","image":1}')["code"] == "request"

    def test_a_kernel_that_leaves_without_hearing_the_answer(
        self, lab: Lab, ada: OmeroRepository, broker: BrokerProcess
    ) -> None:
        _, _, image = first_image(ada, lab.made_by_client[0])
        for _ in range(5):
            with Talk(broker) as talk:
                talk.socket.send(encode(Open(session=ada.connection.key, image=image.id)))
        with client(broker, ada) as asks:
            os.close(*asks.open(image.id))

    @given(
        number=st.integers(1, 2**63 - 1), file=st.text(min_size=1, max_size=50).filter(lambda text: "\0" not in text)
    )
    def test_requests_survive_the_wire(self, number: int, file: str) -> None:
        key = "01234567-89ab-cdef-0123-456789abcdef"
        try:
            file.encode()
        except UnicodeEncodeError:
            return
        for request in (Open(session=key, image=number, files=(file,)), Check(session=key, images=(number,))):
            assert read_request(encode(request)) == request


class TestFolders:
    @pytest.fixture
    def inside(self, tmp_path: Path) -> Path:
        (tmp_path / "in" / "deep").mkdir(parents=True)
        (tmp_path / "also").mkdir()
        for name in ("in/deep/file", "also/file", "secret"):
            (tmp_path / name).write_text(name)
        return tmp_path / "in"

    def read(self, folders: Folders, path: str) -> str:
        descriptor = folders.open(path)
        with os.fdopen(descriptor) as file:
            return file.read()

    def test_links_are_walked_inside(self, inside: Path) -> None:
        (inside / "link").symlink_to("deep/../deep/file")
        (inside / "folder").symlink_to(inside / "deep")
        (inside / "placed").symlink_to(inside.parent / "also" / "file")
        folders = Folders(inside, [inside.parent / "also"])
        assert {self.read(folders, path) for path in ("link", "folder/file", "deep/file")} == {"in/deep/file"}
        assert self.read(folders, "placed") == "also/file"

    @pytest.mark.parametrize(
        "target", ["../secret", "/etc/passwd", "deep/../../secret", "loop", "{top}/secret", "{top}/in/../secret"]
    )
    def test_links_that_lead_out_are_not(self, inside: Path, target: str) -> None:
        (inside / "loop").symlink_to(target.format(top=inside.parent))
        with pytest.raises(OutsideError):
            Folders(inside).open("loop")

    @pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "deep/../../secret", "", "deep"])
    def test_paths_that_lead_out(self, inside: Path, path: str) -> None:
        with pytest.raises(OutsideError):
            Folders(inside).open(path)

    def test_what_is_no_file_is_not_opened(self, inside: Path) -> None:
        os.mkfifo(inside / "pipe")  # opening it would wait for a writer
        with pytest.raises(OutsideError, match="no file"):
            Folders(inside).open("pipe")

    def test_a_file_that_everybody_may_write(self, inside: Path) -> None:
        (inside / "deep" / "file").chmod(0o666)
        with pytest.raises(OutsideError, match="everybody may write"):
            Folders(inside).open("deep/file")

    def test_a_name_that_changes_while_it_is_opened(self, inside: Path) -> None:
        """A thread puts a link to a secret in the file's place and back, as quickly as it can."""
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                (inside / "link").symlink_to("../secret")
                (inside / "link").replace(inside / "name")
                shutil.copyfile(inside / "deep" / "file", inside / "new")
                (inside / "new").replace(inside / "name")

        shutil.copyfile(inside / "deep" / "file", inside / "name")
        swapper = threading.Thread(target=swap)
        swapper.start()
        folders = Folders(inside)
        outcomes: Counter[str] = Counter()
        until = time.monotonic() + 30
        try:
            while min(outcomes["in/deep/file"], outcomes["refused"]) < 100 and time.monotonic() < until:
                try:
                    outcomes[self.read(folders, "name")] += 1
                except OutsideError:
                    outcomes["refused"] += 1
        finally:
            stop.set()
            swapper.join()
        assert set(outcomes) == {"in/deep/file", "refused"}

    def test_no_descriptor_is_left(self, inside: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        (inside / "loop").symlink_to("loop")
        for path in ("deep/file", "loop", "..", "gone", "deep/file/x"):
            with contextlib.suppress(OutsideError, OSError):
                os.close(Folders(inside).open(path))
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_limits_let_a_burst_through_and_then_the_rate() -> None:
    now = [0.0]
    limits = Limits(2.0, 4.0, lambda: now[0])
    assert [limits.wait_s(1) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert limits.wait_s(2) == 0
    now[0] = 0.5
    assert [limits.wait_s(1), limits.wait_s(1)] == [0, 0.5]
