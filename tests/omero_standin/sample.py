"""What the stand-in holds before it starts: people, groups, and plates whose pixels the tests know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.omero_standin.binary import BinaryRepository, Planes
from tests.omero_standin.server import first_records, group, user
from tests.omero_standin.store import Quantity, Record, Ref, Store
from tests.plates import PIXEL_SIZE_UM, Z_STEP_UM, MadePlate, write_plate

PASSWORDS = {"root": "omero", "ada": "lovelace", "grace": "hopper", "mallory": "none-of-your-business"}


class Sample:
    """Fills the folder of a stand-in that does not run.

    Ada and Grace share the group ``imaging`` (read and annotate); Ada may only read what others have in ``archive``;
    Mallory is in ``private`` alone.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = Store(folder / "database.log")
        self.repository = BinaryRepository(folder / "OMERO")
        (folder / "passwords.json").write_text(json.dumps(PASSWORDS))
        first_records(self.store)
        self.groups = {
            name: group(self.store, name, mode)
            for name, mode in (("imaging", "rwra--"), ("archive", "rwr---"), ("private", "rw----"))
        }
        imaging, archive, private = self.groups.values()
        self.users = {
            "ada": user(self.store, "ada", "Ada", "Lovelace", [imaging, archive]),
            "grace": user(self.store, "grace", "Grace", "Hopper", [imaging, archive]),
            "mallory": user(self.store, "mallory", "Mallory", "Other", [private]),
        }
        self.store.commit()

    def close(self) -> None:
        """Close the database, so that the stand-in has it."""
        self.store.commit()
        self.store.close()

    def screen(self, name: str, owner: str = "ada", of: str = "imaging") -> int:
        """Make a screen and return its id."""
        return self._add("Screen", {"name": name}, owner, of).id

    def plate(
        self,
        name: str,
        *,
        wells: tuple[str, ...] = ("A01", "B02"),
        fields: int = 2,
        channels: tuple[str, ...] = ("DAPI", "GFP"),
        z: int = 3,
        size: tuple[int, int] = (24, 32),
        owner: str = "ada",
        of: str = "imaging",
        screen: int | None = None,
        imported: bool = False,
        write: Callable[..., MadePlate] = write_plate,
        **options: object,
    ) -> tuple[int, MadePlate]:
        """Put a plate into the server.

        Parameters
        ----------
        imported
            Its TIFF files lie in the managed repository as an import leaves them; else each image has a file of its
            own, as images that clients made.
        write
            Writes its TIFF files.
        options
            For the TIFF files: ``dtype``, ``compression``, ``byteorder``.

        Returns
        -------
        tuple
            The plate's id, and what knows its pixels.
        """
        template = f"{owner}_{self.users[owner]}/2026-11/22/10-30-00.000"
        folder = self.repository.managed / template / name if imported else self.folder / "made" / name
        made = write(folder, wells, fields, channels, z, size, **options)
        where = {"rows": 8, "columns": 12, "columnNamingConvention": "number", "rowNamingConvention": "letter"}
        plate = self._add("Plate", {"name": name, "status": "", **where}, owner, of)
        if screen is not None:
            self._add("ScreenPlateLink", {"parent": Ref("Screen", screen), "child": plate.ref}, owner, of)
        fileset = self._fileset(made, owner, of) if imported else None
        planes: dict[str, dict[str, Any]] = {}
        series = 0
        for well in wells:
            row, column = ord(well[0]) - 65, int(well[1:]) - 1
            of_plate = {"plate": plate.ref, "row": row, "column": column}
            spot = self._add("Well", of_plate, owner, of)
            for number in range(1, fields + 1):
                image = self._image(made, f"{name} [{well} {number}]", owner, of)
                position = {
                    axis: Quantity("Length", float(value), "MICROMETER")
                    for axis, value in (("posX", (number - 1) * size[1] * PIXEL_SIZE_UM), ("posY", 0.0))
                }
                self._add("WellSample", {"well": spot.ref, "image": image.ref, **position}, owner, of)
                pixels = self._pixels_of(image)
                if fileset is not None:
                    image.values |= {"fileset": fileset.ref, "series": series}
                    self.store.put(image)
                    planes[str(series)] = self._plane_files(made, well, number)
                    series += 1
                else:
                    self._write_planes(pixels, made, well, number)
        if fileset is not None:
            side = self.repository.folder / "Planes" / f"{fileset.id}.json"
            side.parent.mkdir(exist_ok=True)
            side.write_text(json.dumps(planes))
        self.store.commit()
        return plate.id, made

    def dataset(
        self, name: str, *, images: int = 2, owner: str = "ada", of: str = "imaging", project: int | None = None
    ) -> tuple[int, MadePlate]:
        """Put a dataset into the server; its images are the fields of well A01 of what is returned."""
        made = write_plate(self.folder / "made" / name, ("A01",), images)
        dataset = self._add("Dataset", {"name": name}, owner, of)
        for number in range(1, images + 1):
            image = self._image(made, f"{name} {number}", owner, of)
            self._write_planes(self._pixels_of(image), made, "A01", number)
            self._add("DatasetImageLink", {"parent": dataset.ref, "child": image.ref}, owner, of)
        if project is not None:
            self._add("ProjectDatasetLink", {"parent": Ref("Project", project), "child": dataset.ref}, owner, of)
        self.store.commit()
        return dataset.id, made

    def project(self, name: str, owner: str = "ada", of: str = "imaging") -> int:
        """Make a project and return its id."""
        return self._add("Project", {"name": name}, owner, of).id

    def images_of(self, plate: int) -> list[Record]:
        """List the images of a plate, in their order."""
        samples = [one for one in self.store.all("WellSample") if self._plate_of(one) == plate]
        return [image for one in samples if (image := self.store.find(one.values["image"])) is not None]

    def pixels_of(self, image: Record) -> Record:
        """Return the Pixels of an image."""
        return self._pixels_of(image)

    def register_zarr(self, plate: int, made: MadePlate, folder: Path) -> None:
        """Register the images of a plate as OME-Zarr, beside the files that the server reads."""
        import zarr

        places = [(well, number + 1) for well in made.wells for number in range(made.fields)]
        for image, (well, number) in zip(self.images_of(plate), places, strict=True):
            shape = (1, len(made.channels), made.z, *made.size)
            group = zarr.open_group(folder / str(image.id), mode="w", zarr_format=2)
            array = group.create_array(
                "0", shape=shape, chunks=(1, 1, 1, *made.size), dtype=made.dtype,
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )  # fmt: skip
            for c, z in np.ndindex(len(made.channels), made.z):
                array[0, c, z] = made.plane(well, number, c, z)
            info = {
                "entityType": "com.glencoesoftware.ngff:multiscales", "entityId": 3,
                "lsid": str(folder / str(image.id)),
            }  # fmt: skip
            image.external = self.store.add("ExternalInfo", info, image.owner, image.group).ref
            self.store.put(image)
        self.store.commit()

    def _plate_of(self, sample: Record) -> int | None:
        well = self.store.find(sample.values["well"])
        return well.values["plate"].id if well is not None else None

    def _add(self, kind: str, values: dict[str, Any], owner: str, of: str) -> Record:
        return self.store.add(kind, values, self.users[owner], self.groups[of])

    def _image(self, made: MadePlate, name: str, owner: str, of: str) -> Record:
        image = self._add("Image", {"name": name, "series": 0}, owner, of)
        height, width = made.size
        kind = next(one for one in self.store.all("PixelsType") if one.values["value"] == made.dtype)
        order = next(one for one in self.store.all("DimensionOrder") if one.values["value"] == "XYZCT")
        length = Quantity("Length", PIXEL_SIZE_UM, "MICROMETER")
        values = {
            "image": image.ref, "pixelsType": kind.ref, "dimensionOrder": order.ref, "sha1": "unknown",
            "sizeX": width, "sizeY": height, "sizeZ": made.z, "sizeC": len(made.channels), "sizeT": 1,
            "physicalSizeX": length, "physicalSizeY": length,
            "physicalSizeZ": Quantity("Length", Z_STEP_UM, "MICROMETER"),
        }  # fmt: skip
        pixels = self._add("Pixels", values, owner, of)
        for c, channel in enumerate(made.channels):
            wave = Quantity("Length", 450.0 + 75 * c, "NANOMETER")
            logical = self._add("LogicalChannel", {"name": channel, "emissionWave": wave}, owner, of)
            colour = dict(
                zip(("red", "green", "blue", "alpha"), ((0, 0, 255, 255), (0, 255, 0, 255))[c % 2], strict=True)
            )
            self._add("Channel", {"pixels": pixels.ref, "logicalChannel": logical.ref, **colour}, owner, of)
        return image

    def _pixels_of(self, image: Record) -> Record:
        from tests.omero_standin import schema

        return self.store.children(image.key, schema.Collection("Pixels", "image"))[0]

    def _write_planes(self, pixels: Record, made: MadePlate, well: str, number: int) -> None:
        planes = Planes(self.store, self.repository, pixels)
        dtype = np.dtype(made.dtype).newbyteorder(">")
        for c in range(len(made.channels)):
            for z in range(made.z):
                planes.write(made.plane(well, number, c, z).astype(dtype).tobytes(), planes.offset(0, c, z))

    def _plane_files(self, made: MadePlate, well: str, number: int) -> dict[str, Any]:
        files = {f"0/{c}/{z}": made.file(well, number, c, z) for c, z in np.ndindex(len(made.channels), made.z)}
        managed = self.repository.managed
        return {place: [str(file.relative_to(managed)), 0] for place, file in files.items() if file.exists()}

    def _fileset(self, made: MadePlate, owner: str, of: str) -> Record:
        top = made.folder.parent.relative_to(self.repository.managed)
        fileset = self._add("Fileset", {"templatePrefix": f"{top}/"}, owner, of)
        for file in sorted(path for path in made.folder.rglob("*") if path.is_file()):
            values = {
                "path": f"{file.parent.relative_to(self.repository.managed)}/",
                "name": file.name,
                "size": file.stat().st_size,
                "hash": "",
                "repo": "5f2e8c1a-0000-4000-8000-000000000001",
                "mimetype": "image/tiff" if file.suffix == ".tif" else "application/octet-stream",
            }
            original = self._add("OriginalFile", values, owner, of)
            entry = {"fileset": fileset.ref, "originalFile": original.ref, "clientPath": file.name}
            self._add("FilesetEntry", entry, owner, of)
        return fileset
