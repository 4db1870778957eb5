"""Puts people and plates onto a test server, for ``make test-omero``: ``python deploy/import_plates.py HOST``.

Makes the groups imaging, archive and private and the users ada, grace and mallory. Their passwords are known, so never
use it on a server that others can reach. Needs omero-py; for the imported plate also Java, which ``omero import`` runs.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from omero.gateway import BlitzGateway

from tests.omero_standin.sample import PASSWORDS
from tests.plates import PIXEL_SIZE_UM, Z_STEP_UM, MadePlate, write_plate

GROUPS = {"imaging": "rwra--", "archive": "rwr---", "private": "rw----"}
PEOPLE = {
    "ada": ("Ada", "Lovelace", ("imaging", "archive")),
    "grace": ("Grace", "Hopper", ("imaging", "archive")),
    "mallory": ("Mallory", "Other", ("private",)),
}
SCREEN = "Screen one"


def main() -> int:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=4064)
    parser.add_argument("--people", action=argparse.BooleanOptionalAction, default=True, help="make users and groups")
    parser.add_argument("--imported", action=argparse.BooleanOptionalAction, default=True, help="run omero import")
    options = parser.parse_args()
    if options.people:
        password = os.environ.get("OMERO_ROOT_PASSWORD") or getpass.getpass("Password of root: ")
        with _gateway(options, "root", password) as root:
            make_people(root)
    with tempfile.TemporaryDirectory() as folder, _gateway(options, "ada", PASSWORDS["ada"]) as ada:
        screen = _screen(ada)
        if not _has(ada, "drawn"):
            draw_plate(ada, write_plate(Path(folder, "drawn")), screen)
        if options.imported and not _has(ada, "acquired"):
            import_plate(ada, options, write_plate(Path(folder, "acquired")), screen)
        with _gateway(options, "mallory", PASSWORDS["mallory"]) as mallory:
            if not _has(mallory, "hidden"):
                draw_plate(mallory, write_plate(Path(folder, "hidden")), None)
    return 0


def make_people(root: BlitzGateway) -> None:
    """Make groups and users that are not there."""
    from omero.gateway import ExperimenterGroupWrapper
    from omero.model import ExperimenterI
    from omero.rtypes import rbool, rstring

    admin = root.getAdminService()
    numbers = {}
    for name, permissions in GROUPS.items():
        found: ExperimenterGroupWrapper | None = root.getObject("ExperimenterGroup", attributes={"name": name})
        numbers[name] = found.getId() if found else root.createGroup(name, perms=permissions, ldap=False)
    for name, (first, last, groups) in PEOPLE.items():
        if root.getObject("Experimenter", attributes={"omeName": name}):
            continue
        person = ExperimenterI()
        person.omeName, person.firstName, person.lastName = rstring(name), rstring(first), rstring(last)
        person.ldap = rbool(False)
        own = [admin.getGroup(numbers[group]) for group in groups]
        member = admin.getGroup(admin.getSecurityRoles().userGroupId)
        admin.createExperimenterWithPassword(person, rstring(PASSWORDS[name]), own[0], [*own[1:], member])
        print(f"user {name}")


def draw_plate(gateway: BlitzGateway, made: MadePlate, screen: int | None) -> int:
    """Make a plate as a client does: images of arrays, one file of OMERO's own an image. Returns its id."""
    from omero.model import ImageI, LengthI, PlateI, ScreenI, ScreenPlateLinkI, WellI, WellSampleI
    from omero.model.enums import UnitsLength
    from omero.rtypes import rint, rstring

    update = gateway.getUpdateService()
    plate = PlateI()
    plate.name, plate.rows, plate.columns = rstring(made.folder.name), rint(8), rint(12)
    plate = update.saveAndReturnObject(plate)
    if screen is not None:
        link = ScreenPlateLinkI()
        link.parent, link.child = ScreenI(screen, False), PlateI(plate.id.val, False)
        update.saveObject(link)
    for name in made.wells:
        well = WellI()
        well.plate = PlateI(plate.id.val, False)
        well.row, well.column = rint(ord(name[0]) - 65), rint(int(name[1:]) - 1)
        for number in range(1, made.fields + 1):
            sample = WellSampleI()
            sample.image = ImageI(_image(gateway, made, name, number), False)
            sample.posX = LengthI((number - 1) * made.size[1] * PIXEL_SIZE_UM, UnitsLength.MICROMETER)
            sample.posY = LengthI(0.0, UnitsLength.MICROMETER)
            well.addWellSample(sample)
        update.saveObject(well)
    print(f"plate {made.folder.name}: {plate.id.val}")
    return int(plate.id.val)


def import_plate(gateway: BlitzGateway, options: argparse.Namespace, made: MadePlate, screen: int) -> None:
    """Import a plate's files with ``omero import``, and name it."""
    command = [sys.executable, "-m", "omero.main", "import", "--server", options.host, "--port", str(options.port)]
    command += ["--key", gateway.getSession().getUuid().val, "--target", f"Screen:{screen}", str(made.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Plate:(\d+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"omero import failed:\n{done.stdout}\n{done.stderr}")
    plate = gateway.getObject("Plate", int(found[1]))
    plate.setName(made.folder.name)
    plate.save()
    print(f"plate {made.folder.name}: {found[1]}")


def _image(gateway: BlitzGateway, made: MadePlate, well: str, number: int) -> int:
    places = [(z, c) for z in range(made.z) for c in range(len(made.channels))]
    planes = (made.plane(well, number, c, z) for z, c in places)
    name = f"{made.folder.name} [{well} {number}]"
    image = gateway.createImageFromNumpySeq(planes, name, made.z, len(made.channels), 1)
    gateway.setChannelNames("Image", [image.getId()], dict(enumerate(made.channels, start=1)))
    describe(gateway, image.getId())
    return int(image.getId())


def describe(gateway: BlitzGateway, image: int) -> None:
    """Give an image the scale and the wavelengths that the tests expect."""
    from omero.model import LengthI
    from omero.model.enums import UnitsLength

    query, update = gateway.getQueryService(), gateway.getUpdateService()
    seen = gateway.getObject("Image", image)
    pixels = query.get("Pixels", seen.getPixelsId())
    pixels.physicalSizeX = pixels.physicalSizeY = LengthI(PIXEL_SIZE_UM, UnitsLength.MICROMETER)
    pixels.physicalSizeZ = LengthI(Z_STEP_UM, UnitsLength.MICROMETER)
    update.saveObject(pixels)
    for c, channel in enumerate(seen.getChannels(noRE=True)):
        logical = query.get("LogicalChannel", channel.getLogicalChannel().getId())
        logical.emissionWave = LengthI(450.0 + 75 * c, UnitsLength.NANOMETER)
        update.saveObject(logical)


def _screen(gateway: BlitzGateway) -> int:
    from omero.model import ScreenI
    from omero.rtypes import rstring

    found = gateway.getObject("Screen", attributes={"name": SCREEN})
    if found:
        return int(found.getId())
    screen = ScreenI()
    screen.name = rstring(SCREEN)
    return int(gateway.getUpdateService().saveAndReturnObject(screen).id.val)


def _has(gateway: BlitzGateway, name: str) -> bool:
    return gateway.getObject("Plate", attributes={"name": name}) is not None


def _gateway(options: argparse.Namespace, user: str, password: str) -> Any:
    gateway = BlitzGateway(user, password, host=options.host, port=options.port, secure=True)
    if not gateway.connect():
        raise SystemExit(f"{options.host} does not let {user} in: {gateway.getLastError()}")
    return gateway


if __name__ == "__main__":
    sys.exit(main())
