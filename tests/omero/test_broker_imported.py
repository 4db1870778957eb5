"""Imported files through the broker: read as they are by their paths, by an account that may not open them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.broker.client import BrokerError
from openhcs_jupyter.repository.omero.mirror import mirror, top_of
from openhcs_jupyter.repository.omero.queries import FileRow
from tests.omero.brokers import BrokerProcess, client, first_image
from tests.omero.lab import Lab
from tests.omero_standin.store import Record, Ref
from tests.plates import MadePlate

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(os.environ.get("OMERO_HOST")), reason="another machine has the repository's files"),
]


class RealPlate(MadePlate):
    """The real ImageXpress plate: planes of w1, w2 (ten slices) and w4 (one slice); w3 has a projection only."""

    def file(self, well: str, number: int, c: int, z: int | None) -> Path:
        """Return the file of a plane; one that is not there, where it was not acquired."""
        found = list(self.folder.rglob(f"ZStep_{(z or 0) + 1}/*_{well}_s{number}_w{c + 1}*.tif"))
        return next((file for file in found if "_thumb" not in file.name), self.folder / "none")

    def plane(self, well: str, number: int, c: int, z: int | None) -> Any:
        """Return the pixels of a plane."""
        file = self.file(well, number, c, z)
        return tifffile.imread(file) if file.exists() else np.zeros(self.size, self.dtype)


class Archive(Lab):
    """A laboratory with imported plates of several kinds."""

    def __init__(self, folder: Path, real: Path | None) -> None:
        super().__init__(folder)
        sample = self.sample
        self.deflated = sample.plate("deflated", imported=True, compression="zlib", byteorder=">")
        self.swapped = sample.plate("swapped", imported=True, wells=("A01",), fields=1)
        self.shorter = sample.plate("shorter", imported=True, wells=("A01",), fields=1)
        (record,) = [one for one in self._files("/shorter/") if one.values["name"].endswith("_s1_w1.tif")][:1]
        record.values["size"] += 1
        self.wandering = sample.plate("wandering", imported=True, wells=("A01",), fields=1)
        for record in self._files("/wandering/"):
            record.values["path"] = f"../{record.values['path']}"
        self.reaching = sample.plate("reaching", imported=True, wells=("A01",), fields=1)
        for record in self._files("/reaching/"):
            record.values["path"] = f"x/../../ManagedRepository/{record.values['path']}"
        self.mixed = sample.plate("mixed", imported=True, wells=("A01",), fields=2)
        self.loose = self._take_out_of_its_well(sample.images_of(self.mixed[0])[1])
        sample.store.commit()
        self.real = self._real(real) if real is not None else None

    def _files(self, path: str) -> list[Record]:
        found = [one for one in self.sample.store.all("OriginalFile") if path in str(one.values.get("path"))]
        for one in found:
            self.sample.store.put(one)
        return found

    def _take_out_of_its_well(self, image: Record) -> int:
        store = self.sample.store
        (place,) = [one for one in store.all("WellSample") if one.values["image"] == Ref("Image", image.id)]
        store.drop(place.key)
        return image.id

    def _real(self, folder: Path) -> tuple[int, MadePlate]:
        def write(target: Path, wells: Any, fields: int, channels: Any, z: int, size: Any) -> MadePlate:
            shutil.copytree(folder, target)
            return RealPlate(target, wells, fields, channels, z, size, "uint16", 0)

        return self.sample.plate(
            "real", wells=("E07", "E08"), fields=2, channels=("w1", "w2", "w3", "w4"), z=10, size=(512, 512),
            imported=True, write=write,
        )  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    plates = os.environ.get("OPENHCS_TEST_PLATES")
    real = Path(plates) / "imagexpress" / "Projection-Mix" if plates else None
    with Archive(tmp_path_factory.mktemp("omero"), real) as made:
        yield made


@pytest.fixture(scope="module")
def broker(lab: Archive) -> Iterator[BrokerProcess]:
    with BrokerProcess(lab, "--plates") as running:
        yield running


@pytest.fixture
def ada(lab: Archive, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[OmeroRepository]:
    monkeypatch.setenv("OPENHCS_OMERO_BROKER", str(broker.socket))
    with lab.join("ada") as repository:
        yield repository


def check(repository: OmeroRepository, number: int, made: MadePlate) -> tuple[str, ...]:
    """Compare all planes of a plate, and say how they came."""
    plate = repository.plate(number)
    for well, field in plate.fields():
        with repository.open(field.images[0]) as source:
            for c, z in np.ndindex(len(made.channels), made.z):
                np.testing.assert_array_equal(source.plane(0, c, z), made.plane(well.name, field.number, c, z))
            source.verify()
    return repository.told_of([field.images[0] for _, field in plate.fields()])


def test_compressed_and_swapped_planes(lab: Archive, ada: OmeroRepository) -> None:
    assert check(ada, *lab.deflated) == ("4 of 4 images are read in place, 4 through the broker.",)


def test_a_real_plate(lab: Archive, ada: OmeroRepository, real_plates: Path) -> None:
    assert lab.real is not None
    told = check(ada, *lab.real)
    assert told == (
        "4 of 4 images are read in place, 4 through the broker.",
        "76 planes were not acquired: they are zeros, as OMERO gives them.",
    )


def test_headers_are_read_once(lab: Archive, ada: OmeroRepository, broker: BrokerProcess) -> None:
    number, made = lab.deflated
    ada.plate(number)
    before = len(broker.log())
    first_image(ada, number)
    granted = [line for line in broker.log()[before:] if '"granted"' in line]
    assert 0 < len(granted) < made.fields * len(made.wells) * len(made.channels) * made.z


def test_another_account_reads_what_it_may_not_open(lab: Archive, broker: BrokerProcess, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    number, _ = lab.real or lab.deflated
    lab.server.binary_repository.chmod(0o700)
    data = broker.socket.parent / "data"  # a folder that others can reach
    data.mkdir()
    data.chmod(0o777)
    program = (
        "import hashlib, os, sys\n"
        "from openhcs_jupyter.repository.omero import OmeroRepository\n"
        "def digest(own):\n"
        "    os.environ['OPENHCS_DATA_DIR'] = own\n"
        "    with OmeroRepository(sys.argv[1]) as repository:\n"
        "        plate = repository.plate(int(sys.argv[2]))\n"
        "        images = [field.images[0] for _, field in plate.fields()]\n"
        "        assert 'in place, 4 through the broker' in repository.told_of(images)[0], repository.told_of(images)\n"
        "        with repository.open(images[0]) as source:\n"
        "            return hashlib.sha1(source.plane(0, 1, 2)).hexdigest()\n"
        "before = digest(f'{sys.argv[3]}/root')  # imports all that is needed: the rest may not read this checkout\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: os.listdir(sys.argv[4]); raise SystemExit('the repository is open')\n"
        "except PermissionError: pass\n"
        "assert digest(f'{sys.argv[3]}/other') == before\n"
    )
    with lab.join("ada") as ada:
        environment = os.environ | {
            "OPENHCS_OMERO_BROKER": str(broker.socket), "OMERO_SESSION_KEY": ada.connection.key, "HOME": str(data),
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", program, lab.uri("ada"), str(number), str(data)]
        done = subprocess.run(
            [*command, str(lab.server.binary_repository)], env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr


class TestTrust:
    def test_files_of_another_size_than_omero_says(self, lab: Archive, ada: OmeroRepository) -> None:
        told = check(ada, *lab.shorter)
        assert "bytes, and OMERO says" in told[0]

    def test_names_that_lead_out_of_the_repository(self, lab: Archive, ada: OmeroRepository) -> None:
        told = check(ada, *lab.wandering)
        assert "outside of the managed repository" in told[0]

    def test_names_that_go_round_outside_of_the_repository(
        self, lab: Archive, ada: OmeroRepository, broker: BrokerProcess
    ) -> None:
        """There lie the pixels of all users: whoever could write such a name would read them."""
        number, made = lab.reaching
        _, _, image = first_image(ada, number)
        file = made.file("A01", 1, 0, 0).relative_to(lab.sample.repository.managed)
        (lab.sample.repository.managed / "x").mkdir(exist_ok=True)
        name = f"x/../../ManagedRepository/{file}"
        with client(broker, ada) as asks, pytest.raises(BrokerError, match="not in OMERO's managed repository"):
            asks.open(image.id, [name])

    def test_files_that_change_after_the_plate_was_loaded(self, lab: Archive, ada: OmeroRepository) -> None:
        number, made = lab.swapped
        _, _, image = first_image(ada, number)
        file = made.file("A01", 1, 0, 0)
        whole = file.read_bytes()
        with ada.open(image) as source:
            source.plane(0, 0, 0)
            file.write_bytes(whole[:-1])
            try:
                with pytest.raises(RepositoryError, match=r"s1_w1\.tif of .* has changed since its plate was"):
                    source.verify()
                with ada.open(image) as again, pytest.raises(RepositoryError, match="has changed"):
                    again.plane(0, 0, 0)
            finally:
                file.write_bytes(whole)
        check(ada, number, made)  # loaded again, it is looked at again

    def test_files_that_are_put_in_anothers_place_meanwhile(
        self, lab: Archive, ada: OmeroRepository, tmp_path: Path
    ) -> None:
        """A thread puts a link to a secret in a file's place and back: planes are those that OMERO has, or errors."""
        number, made = lab.swapped
        _, _, image = first_image(ada, number)
        file = made.file("A01", 1, 1, 1)
        secret = tmp_path / "secret.tif"
        shutil.copy2(file, secret)
        secret.write_bytes(secret.read_bytes()[:-16] + b"secret of others")
        os.utime(secret, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        kept = file.with_suffix(".kept")
        shutil.copy2(file, kept)
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                for target in (secret, kept):
                    (file.parent / "new").symlink_to(target)
                    (file.parent / "new").replace(file)

        swapper = threading.Thread(target=swap)
        swapper.start()
        outcomes = set()
        try:
            until = time.monotonic() + 30
            while len(outcomes) < 2 and time.monotonic() < until:
                try:
                    with ada.open(image) as source:
                        outcomes.add(bool((source.plane(0, 1, 1) == made.plane("A01", 1, 1, 1)).all()))
                except BrokerError as error:
                    outcomes.add(error.message.rpartition(": ")[2])
        finally:
            stop.set()
            swapper.join()
            kept.replace(file)
        assert outcomes == {True, "a link leads out of the folders."}

    def test_a_hostile_name_writes_nowhere_else(self, tmp_path: Path) -> None:
        for path, name in (
            ("../up/", "a.tif"),
            ("/etc/", "a.tif"),
            ("in/", "../a.tif"),
            ("in/../../", "a"),
            ("in/", ".."),
        ):
            with pytest.raises(RepositoryError, match="outside of the managed repository"):
                mirror(tmp_path / "mirror", [FileRow(1, "repo", path, name, 1)], lambda _: pytest.fail("it was opened"))
        assert list(tmp_path.iterdir()) == []
        assert str(top_of([FileRow(1, "repo", "a/b/c/", "x", 1), FileRow(1, "repo", "a/b/d/", "y", 1)])) == "a/b"

    def test_files_that_images_of_plates_share_are_the_plates(self, lab: Archive) -> None:
        file = str(lab.mixed[1].file("A01", 1, 0, 0).relative_to(lab.sample.repository.managed))
        with (
            BrokerProcess(lab) as strict,
            lab.join("ada") as ada,
            client(strict, ada) as asks,
            pytest.raises(BrokerError, match="images of plates were imported from the same files"),
        ):
            asks.open(lab.loose, [file])
