"""Registering a plate in place: what a reader found is checked against the whole plate and goes into the catalogue."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import ImageKind, Layout, well_name
from openhcs_jupyter.repository.embedded import formats
from openhcs_jupyter.repository.embedded.catalogue import Catalogue
from openhcs_jupyter.repository.embedded.formats import (
    FieldPlace,
    FoundField,
    FoundPlane,
    FoundPlate,
    Progress,
    WellPlace,
)
from openhcs_jupyter.repository.embedded.formats.base import FoundFile
from openhcs_jupyter.repository.embedded.pixels import PlaneSpot, PlaneTable

_USUAL_PLATES = ((8, 12), (16, 24), (32, 48))
_PROBLEMS_KEPT = 200
_Index = tuple[int, int, int]
_NOTHING = FoundField()


def register(
    catalogue: Catalogue,
    folder: str | Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    reader: str | None = None,
    pattern: str | None = None,
) -> int:
    """Register the plate in `folder`; no pixel is copied.

    The same folder again gives the same plate: ids stay, and images whose files changed get a new version.

    Parameters
    ----------
    catalogue
        Where the plate is registered.
    folder
        Of the plate, or one above or below it that leads to one plate only.
    name
        Of the plate; its files or its folder name it otherwise.
    progress
        Called with how many files are read and how many there are.
    reader
        Name of the reader, such as ``ImageXpress``; the one that recognises the folder otherwise.
    pattern
        Of the images' names, such as ``{well}_s{field}_w{channel}_z{z}.tif``, where no reader knows them; see
        `openhcs_jupyter.repository.embedded.formats.pattern.NamePattern`.

    Returns
    -------
    int
        The plate's id.

    Raises
    ------
    RepositoryError
        If there is no such folder, or nothing in it is recognised, or none of its images can be read.
    UsageError
        If there is no such format, or the pattern cannot be one.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise RepositoryError(f"There is no folder {folder}.", "Name the folder that holds the plate's images.")
    try:
        found = formats.choose(folder, name=reader, pattern=pattern).read(folder, progress)
    except OSError as error:
        raise RepositoryError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    checked = _Checked(found)
    with catalogue.transaction() as connection:
        return _write(connection, found, checked, name)


class _CheckedImage(msgspec.Struct, frozen=True):
    """One image as it goes into the catalogue."""

    layout: Layout
    version: str
    table: PlaneTable


class _Checked:
    """What a reader found, sorted into images, with everything amiss as lines for the user."""

    def __init__(self, found: FoundPlate) -> None:
        _require_unique_names(found)
        self._found = found
        self._lines = list(found.problems)
        self.images: dict[FieldPlace, dict[ImageKind, _CheckedImage]] = defaultdict(dict)
        self.planes = 0
        self.bytes = 0
        sorted_planes: dict[tuple[FieldPlace, ImageKind], list[FoundPlane]] = defaultdict(list)
        for plane in found.planes:
            sorted_planes[(plane.row, plane.column, plane.field), plane.kind].append(plane)
        self._grids = _grids(found)
        self._interned: dict[Layout, Layout] = {}
        for (place, kind), planes in sorted(sorted_planes.items()):
            self._add(place, kind, planes)
        if not self.images:
            shown = "".join(f"\n  {line}" for line in self._lines[:3])
            raise RepositoryError(f"None of the {len(found.planes)} images in {found.root} can be read:{shown}")
        self._lines += [*self._sparse_channels(), *self._fields_that_others_have(), *self._sizes()]
        more = len(self._lines) - _PROBLEMS_KEPT
        self.problems = (*self._lines[:_PROBLEMS_KEPT], *([f"and {more} more"] if more > 0 else []))

    @property
    def version(self) -> str:
        """Of the whole plate."""
        parts: list[object] = [self.problems, self._found.format, self._found.rows, self._found.columns]
        parts += [msgspec.structs.astuple(channel) for channel in self._found.channels]
        parts += [(place, self.facts(place)) for place in self.images]
        parts += [(place, kind, image.version) for place, kinds in self.images.items() for kind, image in kinds.items()]
        return _digest(parts)

    def facts(self, place: FieldPlace) -> FoundField:
        """Return what is known of a field beside its planes."""
        return self._found.fields.get(place, _NOTHING)

    def _add(self, place: FieldPlace, kind: ImageKind, planes: Sequence[FoundPlane]) -> None:
        where = f"{well_name(*place[:2])} field {place[2]}"
        shapes = Counter((p.data.size_y, p.data.size_x, p.data.dtype) for p in planes if p.data is not None)
        usual = max(shapes, key=lambda shape: (shapes[shape], shape), default=None)
        good: dict[_Index, FoundPlane] = {}
        faulty: set[_Index] = set()
        for plane in planes:
            index = (plane.t, plane.c, plane.z)
            what = f"{where}, {self._channel(plane.c)}, {_at(plane.t, plane.z)}"
            if plane.data is None:
                self._lines.append(f"{plane.fault} ({what})")
                faulty.add(index)
            elif usual != (plane.data.size_y, plane.data.size_x, plane.data.dtype):
                shape = f"{plane.data.size_y} x {plane.data.size_x} {plane.data.dtype}"
                self._lines.append(
                    f"{self._found.root / plane.file.path} was left out: it has {shape}, "
                    f"most planes of the field do not ({what})"
                )
                faulty.add(index)
            else:
                good[index] = plane
        grid = self._grids[kind]
        self._lines += self._holes(where, grid, good.keys() | faulty)
        if usual is None:
            return
        layout = self._layout(usual, grid, good, self.facts(place))
        self.images[place][kind] = _CheckedImage(layout, _digest(_identity(layout, good)), _table(good))
        self.planes += len(good)
        self.bytes += len(good) * layout.plane_bytes

    def _layout(
        self, shape: tuple[int, int, str], grid: _Grid, good: Mapping[_Index, FoundPlane], facts: FoundField
    ) -> Layout:
        missing = (index for index in grid.indices(len(self._found.channels)) if index not in good)
        layout = Layout(
            size_t=grid.size_t,
            size_c=len(self._found.channels),
            size_z=grid.size_z,
            size_y=shape[0],
            size_x=shape[1],
            dtype=shape[2],
            missing=tuple(missing),
            pixel_size_um=facts.pixel_size_um or self._found.pixel_size_um,
            z_step_um=facts.z_step_um or self._found.z_step_um,
            t_step_s=facts.t_step_s or self._found.t_step_s,
        )
        return self._interned.setdefault(layout, layout)

    def _holes(self, where: str, grid: _Grid, there: Iterable[_Index]) -> Iterable[str]:
        """Name the planes that this field lacks and others of the plate have."""
        lacking: dict[tuple[int, int], list[int]] = defaultdict(list)
        for t, c, z in sorted(grid.expected.difference(there)):
            lacking[c, t].append(z)
        for (c, t), slices in lacking.items():
            yield f"{where}, {self._channel(c)} has no file at {_at(t, *slices)}"

    def _sparse_channels(self) -> Iterable[str]:
        """Tell of channels that the whole plate has in part only."""
        stack = self._grids.get("stack")
        if stack is None:
            return
        for c in range(len(self._found.channels)):
            slices = {z for _, channel, z in stack.expected if channel == c}
            if not slices:
                projected = c in {channel for grid in self._grids.values() for _, channel, _ in grid.expected}
                yield f"{self._channel(c)} has {'a projection only, no stack' if projected else 'no planes'}"
            elif len(slices) < stack.size_z:
                yield f"{self._channel(c)} has {len(slices)} of {stack.size_z} z-steps: {_at(None, *sorted(slices))}"

    def _fields_that_others_have(self) -> Iterable[str]:
        wells: dict[WellPlace, set[int]] = defaultdict(set)
        for row, column, number in self.images:
            wells[row, column].add(number)
        every = set().union(*wells.values())
        for place, numbers in sorted(wells.items()):
            if lacking := sorted(every - numbers):
                listed = ", ".join(map(str, lacking))
                yield f"{well_name(*place)} lacks field {listed}, which other wells have"

    def _sizes(self) -> Iterable[str]:
        """Tell where images differ in size or type: each is taken as it is, but not together with others."""
        places: dict[tuple[int, int, str], list[FieldPlace]] = defaultdict(list)
        for place, kinds in self.images.items():
            if (image := kinds.get("stack")) is not None:
                places[image.layout.size_y, image.layout.size_x, image.layout.dtype].append(place)
        if len(places) < 2:
            return
        told = []
        for (y, x, dtype), found in sorted(places.items(), key=lambda item: -len(item[1])):
            first = f"{well_name(*found[0][:2])} field {found[0][2]}"
            told.append(f"{y} x {x} {dtype} in {len(found)} field(s), such as {first}")
        yield f"images differ in size or type: {'; '.join(told[:4])}{'; ...' if len(told) > 4 else ''}"

    def _channel(self, c: int) -> str:
        return f"channel {self._found.channels[c].name}"


class _Grid(msgspec.Struct, frozen=True):
    """The planes that the images of one kind may have."""

    size_t: int
    size_z: int
    expected: frozenset[_Index]
    """Those that at least one field has."""

    def indices(self, size_c: int) -> Iterable[_Index]:
        return ((t, c, z) for t in range(self.size_t) for c in range(size_c) for z in range(self.size_z))


def _grids(found: FoundPlate) -> dict[ImageKind, _Grid]:
    expected: dict[ImageKind, set[_Index]] = defaultdict(set)
    for plane in found.planes:
        expected[plane.kind].add((plane.t, plane.c, plane.z))
    return {
        kind: _Grid(1 + max(t for t, _, _ in indices), 1 + max(z for _, _, z in indices), frozenset(indices))
        for kind, indices in expected.items()
    }


def _require_unique_names(found: FoundPlate) -> None:
    """Refuse channels of one name: a step could not say which it means."""
    twice = [name for name, times in Counter(channel.name for channel in found.channels).items() if times > 1]
    if twice:
        raise RepositoryError(
            f"The reader {found.format} names several channels of {found.root} {twice[0]!r}.",
            "This is a fault of the reader: it must tell them apart.",
        )


def _at(t: int | None, *slices: int) -> str:
    """Name planes by their indices from 0; the time point only where it is not the first."""
    return (f"t={t}, " if t else "") + "z=" + ",".join(map(str, slices))


def _identity(layout: Layout, planes: Mapping[_Index, FoundPlane]) -> list[object]:
    """Return everything that the pixels of an image hang on."""
    parts: list[object] = [msgspec.structs.astuple(layout)]
    parts += [
        (index, plane.file, plane.parts, plane.data)
        for index, plane in sorted(planes.items(), key=lambda item: item[0])
    ]
    return parts


def _digest(parts: list[object]) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=12).hexdigest()


def _table(planes: Mapping[_Index, FoundPlane]) -> PlaneTable:
    numbers: dict[FoundFile, int] = {}
    spots = []
    for (t, c, z), plane in sorted(planes.items(), key=lambda item: item[0]):
        data = plane.data
        assert data is not None
        file = numbers.setdefault(plane.file, len(numbers))
        parts = tuple(numbers.setdefault(part, len(numbers)) for part in plane.parts)
        offset = -1 if data.offset is None else data.offset
        spots.append(PlaneSpot(t, c, z, file, data.page, offset, data.swapped, parts))
    return PlaneTable(tuple(numbers), tuple(spots))


def _size(found: FoundPlate, wells: Iterable[WellPlace]) -> WellPlace:
    """Return rows and columns of the plate: as its files say, or the smallest usual plate that has its wells."""
    places = list(wells)
    rows, columns = 1 + max(row for row, _ in places), 1 + max(column for _, column in places)
    if found.rows and found.columns and found.rows >= rows and found.columns >= columns:
        return found.rows, found.columns
    return next((size for size in _USUAL_PLATES if size[0] >= rows and size[1] >= columns), (rows, columns))


def _write(connection: Connection, found: FoundPlate, checked: _Checked, name: str | None) -> int:
    """Write a plate, or bring it up to date; returns its id."""
    source, version = str(found.root), checked.version
    row = connection.execute("SELECT id, version FROM plate WHERE source = ?", (source,)).fetchone()
    if row is not None and row[1] == version:
        if name is not None:
            connection.execute("UPDATE plate SET name = ? WHERE id = ?", (name, row[0]))
        return int(row[0])
    wells = sorted({place[:2] for place in checked.images})
    values = {
        "format": found.format,
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version,
        **dict(zip(("rows", "columns"), _size(found, wells), strict=True)),
        "wells": len(wells),
        "fields": len(checked.images),
        "planes": checked.planes,
        "bytes": checked.bytes,
        "problems": msgspec.json.encode(checked.problems).decode(),
    }
    if row is None:
        values |= {"name": name or found.name, "source": source}
        marks = ", ".join("?" * len(values))
        plate = connection.execute(
            f"INSERT INTO plate ({', '.join(values)}) VALUES ({marks})",  # noqa: S608 - names are the literals above
            tuple(values.values()),
        ).lastrowid
        assert plate is not None
    else:
        plate = int(row[0])
        if name is not None:
            values["name"] = name
        changes = ", ".join(f"{column} = ?" for column in values)
        connection.execute(f"UPDATE plate SET {changes} WHERE id = ?", (*values.values(), plate))  # noqa: S608 - the names are our own
    _write_contents(connection, plate, found, checked)
    return plate


def _write_contents(connection: Connection, plate: int, found: FoundPlate, checked: _Checked) -> None:
    """Replace what the catalogue has below a plate; wells, fields and images that were there keep their ids."""
    wells = _ids(connection, 'SELECT "row", "column", id FROM well WHERE plate = ?', plate)
    fields = _ids(connection, "SELECT well, number, id FROM wellsample WHERE plate = ?", plate)
    images = _ids(connection, "SELECT wellsample, kind, id FROM image WHERE plate = ?", plate)
    connection.execute("DELETE FROM planes WHERE image IN (SELECT id FROM image WHERE plate = ?)", (plate,))
    for table in ("image", "wellsample", "well", "layout", "channel"):
        connection.execute(f"DELETE FROM {table} WHERE plate = ?", (plate,))  # noqa: S608 - names are the literals above
    connection.executemany(
        "INSERT INTO channel (plate, position, name, emission_nm, excitation_nm, color) VALUES (?, ?, ?, ?, ?, ?)",
        [(plate, c, one.name, one.emission_nm, one.excitation_nm, one.color) for c, one in enumerate(found.channels)],
    )
    layouts: dict[Layout, int] = {}
    new_wells: dict[WellPlace, int] = {}
    for place, kinds in checked.images.items():
        well = new_wells.get(place[:2])
        if well is None:
            well = new_wells[place[:2]] = _insert(
                connection,
                'INSERT INTO well (id, plate, "row", "column") VALUES (?, ?, ?, ?)',
                (wells.get(place[:2]), plate, *place[:2]),
            )
        facts = checked.facts(place)
        field = _insert(
            connection,
            "INSERT INTO wellsample (id, plate, well, number, position_y, position_x, acquired) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                fields.get((well, place[2])),
                plate,
                well,
                place[2],
                *(facts.position_um or (None, None)),
                facts.acquired,
            ),
        )
        for kind, image in sorted(kinds.items(), reverse=True):
            if image.layout not in layouts:
                layouts[image.layout] = _insert(
                    connection,
                    "INSERT INTO layout (plate, layout) VALUES (?, ?)",
                    (plate, msgspec.msgpack.encode(image.layout)),
                )
            number = _insert(
                connection,
                "INSERT INTO image (id, plate, wellsample, kind, layout, version) VALUES (?, ?, ?, ?, ?, ?)",
                (images.get((field, kind)), plate, field, kind, layouts[image.layout], image.version),
            )
            connection.execute("INSERT INTO planes VALUES (?, ?)", (number, msgspec.msgpack.encode(image.table)))


def _ids(connection: Connection, query: str, plate: int) -> dict[tuple[object, ...], int]:
    return {row[:-1]: row[-1] for row in connection.execute(query, (plate,))}


def _insert(connection: Connection, statement: str, values: tuple[object, ...]) -> int:
    number = connection.execute(statement, values).lastrowid
    assert number is not None
    return number
