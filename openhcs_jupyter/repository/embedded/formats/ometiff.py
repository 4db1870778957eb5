"""Plates in OME-TIFF files: the metadata in each file, in one of them, or in a companion file beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, well_name
from openhcs_jupyter.repository.embedded.formats.base import (
    FieldPlace,
    FoundField,
    FoundFile,
    FoundPlane,
    FoundPlate,
    Progress,
    Reader,
)
from openhcs_jupyter.repository.embedded.formats.folders import files_in, holders, some, the_only
from openhcs_jupyter.repository.embedded.formats.headers import read_all_pages, read_headers
from openhcs_jupyter.repository.embedded.formats.indexed import LARGEST_PLATE
from openhcs_jupyter.repository.embedded.formats.metadata import joined_channels
from openhcs_jupyter.repository.embedded.formats.ome_xml import (
    OmeDocument,
    OmeField,
    OmeImage,
    OmePlane,
    OmePlate,
    has_plate,
    read_ome,
)
from openhcs_jupyter.repository.embedded.formats.tiff import TiffFaultError, TiffHeader, TiffPages, read_header

_COMPANION = (".companion.ome", ".companion.ome.xml", ".ome.xml", ".ome")
_TIFF = (".ome.tif", ".ome.tiff", ".ome.tf2", ".ome.tf8", ".ome.btf")
_SAMPLE = 1 << 22


class OmeTiff(Reader):
    """Reads plates in OME-TIFF files."""

    name = "OME-TIFF"
    looks_for = "files *.ome.tif or *.companion.ome whose OME-XML has a Plate"

    def recognise(self, folder: Path) -> float:
        """Tell how sure the reader is: 1 where the first file of a folder describes a plate."""
        return 1.0 if any(_describes_plate(found) for found in holders(folder, _has_any)) else 0.0

    def read(self, folder: Path, progress: Progress | None = None) -> FoundPlate:
        """Read the plate in or below `folder`."""
        root = the_only(folder, [one for one in holders(folder, _has_any) if _describes_plate(one)], self.looks_for)
        files = files_in(root)
        documents, problems = _documents(root, files)
        plate, fields, lines = _plate(root, documents)
        problems += lines
        named = {plane.file for field in fields for plane in field.planes}
        there = sorted(name for name in named if name in files)
        pages = dict(
            zip(there, read_all_pages([(str(root / name), files[name].size) for name in there], progress), strict=True)
        )
        problems += _contradictions(fields, pages)
        left = [name for name in files if name.lower().endswith(_TIFF) and name not in named]
        if left:
            problems.append(f"{len(left)} OME-TIFF file(s) are not of the plate and were left out: {some(left)}")
        channels, lines = joined_channels(field.image.channels for field in fields)
        problems += lines
        return FoundPlate(
            name=plate.name or root.name,
            format=self.name,
            root=root,
            channels=tuple(channels.values()),
            planes=[plane for field in fields for plane in _planes(root, field, files, pages, channels)],
            fields={field.place: _facts(field) for field in fields},
            rows=plate.rows,
            columns=plate.columns,
            problems=tuple(problems),
        )


class _Plane(msgspec.Struct, frozen=True):
    """A plane with the name of its file."""

    ome: OmePlane
    file: str


class _Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the plate with its image."""

    sample: OmeField
    image: OmeImage
    planes: tuple[_Plane, ...]

    @property
    def place(self) -> FieldPlace:
        return self.sample.row, self.sample.column, self.sample.number

    @property
    def title(self) -> str:
        return f"{well_name(self.sample.row, self.sample.column)} field {self.sample.number}"


def _has_any(names: Collection[str]) -> bool:
    return any(name.lower().endswith((*_COMPANION[:2], *_TIFF)) for name in names)


def _describes_plate(folder: Path) -> bool:
    """Tell whether the first companion file, or the first OME-TIFF file, of a folder describes a plate."""
    files = files_in(folder)
    for name in sorted(files):
        if name.lower().endswith(_COMPANION):
            with (folder / name).open("rb") as stream:
                # Plates stand before images, but for what their writer says of itself.
                if has_plate(stream.read(_SAMPLE)):
                    return True
    for name in sorted(files):
        if name.lower().endswith(_TIFF):
            try:
                return has_plate(read_header(folder / name, files[name].size).description.encode())
            except TiffFaultError:
                continue
    return False


def _documents(root: Path, files: Mapping[str, FoundFile]) -> tuple[dict[str, OmeDocument], list[str]]:
    """Read companion files, then those TIFF files that no document read so far names; by the file that holds each."""
    problems: list[str] = []
    documents = {
        name: read_ome(root / name)
        for name in sorted(files)
        if name.lower().endswith(_COMPANION) and not name.lower().endswith(_TIFF)
    }
    known = {plane.file for document in documents.values() for one in document.images.values() for plane in one.planes}
    waiting = [name for name in sorted(files) if name.lower().endswith(_TIFF) and name not in known]
    headers = dict(zip(waiting, read_headers([(str(root / name), files[name].size) for name in waiting]), strict=True))
    lost: dict[str, list[str]] = {}
    for name, header in headers.items():
        if name in known:
            continue
        if not isinstance(header, TiffHeader):
            problems.append(header)
            continue
        if not header.description.lstrip().startswith("<"):
            problems.append(f"{root / name} has no OME-XML and was left out")
            continue
        document = read_ome(root / name, header.description.encode())
        if document.companion is not None:
            if document.companion not in documents:
                lost.setdefault(document.companion, []).append(name)
            continue
        documents[name] = document
        known |= {plane.file for image in document.images.values() for plane in image.planes}
    for companion, names in lost.items():
        problems.append(
            f"{len(names)} file(s) leave their metadata to {companion}, which is not there, "
            f"and were left out: {some(names)}"
        )
    return documents, problems


def _plate(root: Path, documents: Mapping[str, OmeDocument]) -> tuple[OmePlate, list[_Field], list[str]]:
    """Put together what the documents say of the plate."""
    plates = [(holder, plate) for holder, document in documents.items() for plate in document.plates]
    kinds = {(plate.id, plate.name) for _, plate in plates}
    if not plates:
        raise RepositoryError(f"{root} holds no document that describes a plate.", f"Looked for {OmeTiff.looks_for}.")
    if len(kinds) > 1:
        listed = "".join(f"\n  {name or number}" for number, name in sorted(kinds))
        raise RepositoryError(f"{root} holds {len(kinds)} plates:{listed}", "Give each a folder of its own.")
    problems: list[str] = []
    fields: dict[FieldPlace, _Field] = {}
    for holder, plate in plates:
        for sample in plate.fields:
            image = documents[holder].images.get(sample.image)
            where = f"{well_name(sample.row, sample.column)} field {sample.number}" if _is_place(sample) else ""
            if not where:
                problems.append(f"{holder} has a well in row {sample.row + 1}, column {sample.column + 1}: left out")
            elif image is None:
                problems.append(f"{holder} names no image {sample.image!r}, which it has for {where}")
            elif image.fault is not None:
                problems.append(f"{sample.image} in {holder} {image.fault} ({where})")
            else:
                planes = tuple(_Plane(plane, plane.file or holder) for plane in image.planes)
                field = _Field(sample=sample, image=image, planes=planes)
                if fields.setdefault(field.place, field).planes != planes:
                    problems.append(f"{holder} has another image for {where}, which was left out")
    if not fields:
        shown = "".join(f"\n  {line}" for line in problems[:3])
        raise RepositoryError(f"The plate in {root} has no images that can be read.{shown}")
    first = plates[0][1]
    return first, [field for _, field in sorted(fields.items())], problems


def _is_place(sample: OmeField) -> bool:
    return 0 <= sample.row < LARGEST_PLATE[0] and 0 <= sample.column < LARGEST_PLATE[1]


def _contradictions(fields: list[_Field], pages: Mapping[str, TiffPages | str]) -> list[str]:
    """Name the images whose files are of another shape or type than the metadata say."""
    wrong = []
    for field in fields:
        said = (field.image.size_y, field.image.size_x, field.image.dtype)
        for plane in field.planes:
            found = pages.get(plane.file)
            page = found.planes[plane.ome.page] if _has_page(found, plane) else None  # type: ignore[union-attr]  # it is there
            if page is not None and not isinstance(page, str) and (page.size_y, page.size_x, page.dtype) != said:
                wrong.append((field.title, plane.file, page, said))
                break
    if not wrong:
        return []
    title, file, page, said = wrong[0]
    told = f"{page.size_y} x {page.size_x} {page.dtype} and not {said[0]} x {said[1]} {said[2]} ({title})"
    return [f"{len(wrong)} image(s) are not as their metadata say, the files were followed: {file} has {told}"]


def _has_page(found: TiffPages | str | None, plane: _Plane) -> bool:
    return isinstance(found, TiffPages) and plane.ome.page < len(found.planes)


def _facts(field: _Field) -> FoundField:
    acquired = field.sample.acquired or field.image.acquired
    return FoundField(
        position_um=field.sample.position_um or field.image.position_um,
        acquired=acquired.isoformat() if acquired is not None else None,
        pixel_size_um=field.image.pixel_size_um,
        z_step_um=field.image.z_step_um,
        t_step_s=field.image.t_step_s,
    )


def _planes(
    root: Path,
    field: _Field,
    files: Mapping[str, FoundFile],
    pages: Mapping[str, TiffPages | str],
    channels: Mapping[str, Channel],
) -> Iterator[FoundPlane]:
    numbers = {name: c for c, name in enumerate(channels)}
    for plane in field.planes:
        found = pages.get(plane.file)
        path = root / plane.file
        page = found.planes[plane.ome.page] if isinstance(found, TiffPages) and _has_page(found, plane) else None
        fault = None
        if found is None:
            fault = f"{path} is not there, the metadata name it"
        elif isinstance(found, str):
            fault = found
        elif page is None:
            fault = f"{path} has {len(found.planes)} pages, the metadata name page {plane.ome.page + 1}"
        elif isinstance(page, str):
            fault = f"{path} {page} (page {plane.ome.page + 1})"
        yield FoundPlane(
            row=field.sample.row,
            column=field.sample.column,
            field=field.sample.number,
            kind="stack",
            t=plane.ome.t,
            c=numbers[field.image.channels[plane.ome.c].name],
            z=plane.ome.z,
            file=files.get(plane.file) or FoundFile(plane.file, 0, 0),
            data=None if isinstance(page, str) else page,
            fault=fault,
        )
