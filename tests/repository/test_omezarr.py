"""OME-Zarr plates, written by ome-zarr and zarr, and by this program's own runs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Plate, parse_well, well_name
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats import choose
from openhcs_jupyter.repository.embedded.formats.zarr_arrays import FILES, ZarrFaultError, read_array
from tests.plates import MadePlate
from tests.plates import write_plate as write_tiffs
from tests.repository.conformance import RepositoryConformance

VERSIONS = ["0.4", "0.5"]
UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
SCALE = {"t": 30.0, "c": 1.0, "z": 2.0, "y": 0.5, "x": 0.5}


def pixels(well: str, field: int, shape: tuple[int, ...] = (2, 2, 3, 40, 50)) -> NDArray[np.uint16]:
    seed = [ord(letter) for letter in well] + [field]
    return np.random.default_rng(seed).integers(1, 4000, shape, dtype=np.uint16)


def write_plate(
    root: Path,
    version: str = "0.4",
    wells: tuple[str, ...] = ("A/1", "B/3"),
    fields: int = 2,
    axes: str = "tczyx",
    make: Callable[[str, int], NDArray[Any]] = pixels,
    **options: Any,
) -> Path:
    """Write a plate with ome-zarr's own writer; `options` go to zarr."""
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image, write_plate_metadata, write_well_metadata

    fmt = FormatV04() if version == "0.4" else FormatV05()
    plate = zarr.open_group(root, mode="w", zarr_format=fmt.zarr_format)
    names = [str(field) for field in range(fields)]
    write_plate_metadata(plate, list("AB"), [str(n) for n in range(1, 5)], list(wells), fmt=fmt, name="Screen 9")
    for path in wells:
        well = plate.require_group(path)
        write_well_metadata(well, names, fmt=fmt)
        for name in names:
            image = make(path, int(name))[tuple(slice(None) if axis in axes else 0 for axis in "tczyx")]
            group = well.require_group(name)
            write_image(
                image,
                group,
                axes=list(axes),
                fmt=fmt,
                scale_factors=(),
                scale={axis: SCALE[axis] for axis in axes},
                axes_units={axis: UNITS[axis] for axis in axes if axis in UNITS},
                omero={"channels": [_channel("DAPI", "0000FF"), _channel("GFP", "00FF00")]},
                storage_options=options or None,
            )
            # This writer has no word for positions.
            attributes = dict(group.attrs)
            told = attributes if version == "0.4" else attributes["ome"]
            transformations = told["multiscales"][0]["datasets"][0]["coordinateTransformations"]
            transformations[1]["translation"][-2:] = [100.0, 200.0 + int(name) * 25]
            group.attrs.update(attributes)
    return root


def _channel(label: str, color: str) -> dict[str, Any]:
    window = {"min": 0, "max": 4000, "start": 0, "end": 4000}
    return {"label": label, "color": color, "window": window, "active": True}


def imported(repository: EmbeddedRepository, folder: Path) -> Plate:
    summary = repository.import_plate(folder)
    assert summary.problems == ()
    return repository.plate(summary.id)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plate_of_another_program_is_recognised_and_read_whole(
    repository: EmbeddedRepository, tmp_path: Path, version: str
) -> None:
    folder = write_plate(tmp_path / "folder" / "screen.ome.zarr", version)
    summary = repository.import_plate(tmp_path / "folder")
    assert (summary.format, summary.name, summary.problems) == ("OME-Zarr", "Screen 9", ())
    assert (summary.wells, summary.fields, summary.planes) == (2, 4, 48)
    plate = repository.plate(summary.id)
    assert (plate.rows, plate.columns) == (2, 4)
    assert [(one.name, one.color) for one in plate.channels] == [("DAPI", "0000FF"), ("GFP", "00FF00")]
    assert [well.name for well in plate.wells] == ["A01", "B03"]
    for well, field in plate.fields():
        layout = field.images[0].layout
        assert (layout.pixel_size_um, layout.z_step_um, layout.t_step_s) == (0.5, 2.0, 30.0)
        assert field.position_um == (100 + 39 / 2 * 0.5, 200 + (field.number - 1) * 25 + 49 / 2 * 0.5)
        expected = pixels(f"{well.name[0]}/{int(well.name[1:])}", field.number - 1)
        with repository.open(field.images[0]) as opened:
            for index in np.ndindex(expected.shape[:3]):
                np.testing.assert_array_equal(opened.plane(*index), expected[index])
    assert repository.import_plate(folder).id == summary.id


@pytest.mark.parametrize("axes", ["yx", "zyx", "cyx", "tcyx", "czyx"])
def test_axes_that_are_not_there(repository: EmbeddedRepository, tmp_path: Path, axes: str) -> None:
    plate = imported(repository, write_plate(tmp_path / "p.zarr", wells=("A/1",), fields=1, axes=axes))
    image = plate.wells[0].fields[0].images[0]
    whole = pixels("A/1", 0)
    sizes = [size if axis in axes else 1 for axis, size in zip("tcz", whole.shape, strict=False)]
    assert [image.layout.size_t, image.layout.size_c, image.layout.size_z] == sizes
    with repository.open(image) as opened:
        for index in np.ndindex(*sizes):
            np.testing.assert_array_equal(opened.plane(*index), whole[index])


@pytest.mark.parametrize("version", VERSIONS)
def test_uncompressed_chunks_are_mapped(repository: EmbeddedRepository, tmp_path: Path, version: str) -> None:
    how = {"compressor": None} if version == "0.4" else {"compressors": None}
    folder = write_plate(tmp_path / "p.zarr", version, ("A/1",), 1, chunks=(1, 1, 3, 40, 50), **how)
    image = imported(repository, folder).wells[0].fields[0].images[0]
    with repository.open(image) as opened:
        plane = opened.plane(1, 0, 2)
    assert not plane.flags.owndata
    assert type(plane.base).__name__ == "_Mapping"
    np.testing.assert_array_equal(plane, pixels("A/1", 0)[1, 0, 2])


def test_wells_are_named_by_their_row_and_column_not_by_the_indices(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    """A program may list those columns alone that have wells; then the second is not column 2."""
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1", "B/3"), 1)
    plate = json.loads((folder / ".zattrs").read_text())["plate"]
    plate["columns"] = [{"name": "01"}, {"name": "03"}]
    plate["wells"][1]["columnIndex"] = 1
    change_json(folder / ".zattrs", plate=plate)
    found = imported(repository, folder)
    assert [well.name for well in found.wells] == ["A01", "B03"]
    assert (found.rows, found.columns) == (8, 12)
    plate["rows"], plate["columns"] = [], []
    change_json(folder / ".zattrs", plate=plate)
    assert [well.name for well in imported(repository, folder).wells] == ["A01", "B03"]


# Arrays

_DTYPES = ["uint8", "uint16", ">u2", "int32", "float32", ">f8"]


@st.composite
def stored_arrays(draw: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Draw a shape and what zarr makes of it."""
    from zarr import codecs

    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    chunks = tuple(draw(st.integers(1, size)) for size in shape)
    version = draw(st.sampled_from([2, 3]))
    how: dict[str, Any] = {"chunks": chunks, "zarr_format": version, "fill_value": draw(st.integers(0, 9))}
    if version == 2:
        how["compressors"] = draw(
            st.sampled_from(
                [
                    None,
                    numcodecs.Blosc("lz4", shuffle=numcodecs.Blosc.BITSHUFFLE),
                    numcodecs.Blosc("zstd"),
                    numcodecs.Zstd(),
                    numcodecs.GZip(),
                    numcodecs.Zlib(),
                    numcodecs.LZ4(),
                    numcodecs.BZ2(),
                    numcodecs.LZMA(),
                ]
            )
        )
        how["order"] = draw(st.sampled_from("CF"))
        separator = draw(st.sampled_from("/."))
        how["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        return shape, how
    how["compressors"] = draw(
        st.sampled_from(
            [
                None,
                codecs.BloscCodec(cname="lz4"),
                codecs.ZstdCodec(),
                codecs.GzipCodec(),
                (codecs.ZstdCodec(), codecs.Crc32cCodec()),
                codecs.Crc32cCodec(),
            ]
        )
    )
    how["chunk_key_encoding"] = {
        "name": draw(st.sampled_from(["default", "v2"])),
        "separator": draw(st.sampled_from("/.")),
    }
    if draw(st.booleans()):
        how["filters"] = [codecs.TransposeCodec(order=draw(st.permutations(range(3))))]
    if draw(st.booleans()):
        how["shards"] = tuple(chunk * draw(st.integers(1, 3)) for chunk in chunks)
    return shape, how


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=stored_arrays(), dtype=st.sampled_from(_DTYPES), holes=st.booleans())
def test_what_zarr_wrote_is_read(
    tmp_path: Path, stored: tuple[tuple[int, ...], dict[str, Any]], dtype: str, holes: bool
) -> None:
    shape, how = stored
    if how["zarr_format"] == 3:
        dtype = np.dtype(dtype).newbyteorder("<").str
    folder = tmp_path / "array"
    array = zarr.create_array(folder, shape=shape, dtype=dtype, overwrite=True, **how)
    values = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    if not holes:
        array[...] = values
    elif shape[0] > 1:
        array[-1:] = values[-1:]
    found = read_array(folder, FILES[how["zarr_format"] - 2])
    for plane in range(shape[0]):
        files = [folder / key for key in found.keys(plane)]
        read = found.read(plane, files)
        np.testing.assert_array_equal(read, array[plane])
        offset = found.place(plane)
        if offset is not None and files[0].exists():
            raw = files[0].read_bytes()[offset : offset + read.nbytes]
            np.testing.assert_array_equal(np.frombuffer(raw, found.dtype).reshape(read.shape), read)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["shape", "chunks", "dtype", "compressor", "order", "node_type", "codecs", "chunk_grid", "name", "configuration", "chunk_shape", "chunk_key_encoding", "data_type"]), x)))  # fmt: skip  # noqa: E501
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_description_is_read_or_refused(tmp_path: Path, told: object) -> None:
    for name in FILES:
        (tmp_path / name).write_text(json.dumps(told))
        with pytest.raises(ZarrFaultError):
            read_array(tmp_path, name)


_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_SOMETHING = st.recursive(
    _VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "wells", "images", "rows", "axes", "datasets", "scale", "type", "name", "unit"]),
            inner,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_metadata_are_read_or_refused(repository: EmbeddedRepository, tmp_path: Path, data: st.DataObject) -> None:
    """One value of the metadata is something else, whatever it is."""
    folder = tmp_path / "p.zarr"
    if not folder.exists():
        write_plate(folder, "0.4", ("A/1",), 1)
    path = folder / data.draw(st.sampled_from([".zattrs", "A/1/.zattrs", "A/1/0/.zattrs"]))
    content = path.read_text()
    told = json.loads(content)
    inside: Any = told
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(inside[key], dict | list) or not inside[key] or data.draw(st.booleans()):
            inside[key] = data.draw(_SOMETHING)
            break
        inside = inside[key]
    path.write_text(json.dumps(told))
    try:
        summary = repository.import_plate(folder)
        assert summary.planes > 0
    except RepositoryError:
        pass
    finally:
        path.write_text(content)


# Bad input


@pytest.mark.parametrize("version", VERSIONS)
def test_a_truncated_chunk_is_an_error_that_names_it(
    repository: EmbeddedRepository, tmp_path: Path, version: str
) -> None:
    how = {"compressor": numcodecs.Blosc("lz4")} if version == "0.4" else {}
    folder = write_plate(tmp_path / "p.zarr", version, ("A/1",), 1, chunks=(1, 1, 1, 40, 50), **how)
    chunk = next(iter(folder.glob("A/1/0/s0/**/0/0/1/0/0")))
    os.truncate(chunk, chunk.stat().st_size // 2)
    summary = repository.import_plate(folder)
    image = repository.plate(summary.id).wells[0].fields[0].images[0]
    if version == "0.4":
        # Blosc says in its first bytes how long it is.
        assert f"{chunk} is truncated" in summary.problems[0]
        assert not image.layout.has(0, 0, 1)
        return
    with repository.open(image) as opened:
        np.testing.assert_array_equal(opened.plane(0, 0, 0), pixels("A/1", 0)[0, 0, 0])
        with pytest.raises(RepositoryError, match=rf"its chunk {chunk} is damaged"):
            opened.plane(0, 0, 1)


def test_a_truncated_shard_is_an_error_that_names_it(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.5", ("A/1",), 1, chunks=(1, 1, 1, 20, 25), shards=(1, 1, 3, 40, 50))
    image = imported(repository, folder).wells[0].fields[0].images[0]
    with repository.open(image) as opened:
        np.testing.assert_array_equal(opened.plane(1, 1, 2), pixels("A/1", 0)[1, 1, 2])
    (shard,) = folder.glob("A/1/0/s0/c/1/1/0/0/0")
    os.truncate(shard, shard.stat().st_size - 300)
    image = repository.plate(repository.import_plate(folder).id).wells[0].fields[0].images[0]
    told = rf"the index of its shard {shard} is damaged or truncated"
    with repository.open(image) as opened, pytest.raises(RepositoryError, match=told):
        opened.plane(1, 1, 2)


@pytest.mark.parametrize(
    ("shards", "place", "told"),
    [
        (None, 700, "its chunk {file} is damaged"),
        ((1, 1, 3, 40, 50), 4000 + 1700, "chunk 0/0/1/[01]/[01] of its shard {file} is damaged"),
        ((1, 1, 3, 40, 50), -40, "the index of its shard {file} is damaged"),
    ],
)
def test_a_changed_byte_is_found_by_the_checksum(
    repository: EmbeddedRepository, tmp_path: Path, shards: tuple[int, ...] | None, place: int, told: str
) -> None:
    from zarr.codecs import Crc32cCodec

    chunks = (1, 1, 1, 40, 50) if shards is None else (1, 1, 1, 20, 25)
    how = {} if shards is None else {"shards": shards}
    folder = write_plate(tmp_path / "p.zarr", "0.5", ("A/1",), 1, chunks=chunks, compressors=Crc32cCodec(), **how)
    (file,) = folder.glob(f"A/1/0/s0/c/1/1/{1 if shards is None else 0}/0/0")
    content = bytearray(file.read_bytes())
    image = imported(repository, folder).wells[0].fields[0].images[0]
    with repository.open(image) as opened:
        np.testing.assert_array_equal(opened.plane(1, 1, 1), pixels("A/1", 0)[1, 1, 1])
    content[place] ^= 4
    file.write_bytes(content)
    image = repository.plate(repository.import_plate(folder).id).wells[0].fields[0].images[0]
    with repository.open(image) as opened, pytest.raises(RepositoryError, match=told.format(file=file)):
        opened.plane(1, 1, 1)


def test_a_chunk_that_is_not_there_holds_the_fill_value_and_may_not_come(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1",), 1, chunks=(1, 1, 1, 40, 50))
    (chunk,) = folder.glob("A/1/0/s0/0/0/1/0/0")
    content = chunk.read_bytes()
    chunk.unlink()
    image = imported(repository, folder).wells[0].fields[0].images[0]
    with repository.open(image) as opened:
        assert not opened.plane(0, 0, 1).any()
    chunk.write_bytes(content)
    with pytest.raises(RepositoryError, match=f"{chunk} has changed since the plate was imported"):
        repository.open(image)


def test_an_image_without_a_single_chunk_is_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1",), 2)
    for chunk in (folder / "A/1/1/s0").rglob("*"):
        if chunk.is_file() and not chunk.name.startswith("."):
            chunk.unlink()
    summary = repository.import_plate(folder)
    assert summary.fields == 1
    assert summary.problems == (f"{folder}/A/1/1 has none of its 1 chunks: its pixels are not there (A01 field 2)",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"compressor": {"id": "jpeg"}}, "is compressed with 'jpeg', which is not read"),
        ({"filters": [{"id": "delta"}]}, "the filter 'delta', which is not read"),
        ({"dtype": "<c8"}, "which are not numbers"),
        ({"shape": [2, 2, 3, 40]}, "has the shape"),
        ({"shape": [10**9, 2, 3, 40, 50]}, "which no microscope records"),
        ({"chunks": "all"}, "has a damaged .zarray"),
    ],
)
def test_an_array_that_cannot_be_read_is_told_and_the_others_are(
    repository: EmbeddedRepository, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1",), 2)
    change_json(folder / "A/1/1/s0/.zarray", **changes)
    summary = repository.import_plate(folder)
    assert summary.fields == 1
    assert told in summary.problems[0]
    assert "A01 field 2" in summary.problems[0]


def test_a_plate_of_which_nothing_can_be_read_is_an_error(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1",), 1)
    (folder / "A/1/0/.zattrs").write_text("{")
    with pytest.raises(RepositoryError, match=r"A/1/0/\.zattrs is damaged"):
        repository.import_plate(folder)
    (folder / ".zattrs").write_text("no JSON")
    with pytest.raises(RepositoryError, match=r"p\.zarr/\.zattrs is damaged"):
        repository.import_plate(folder)


def test_wells_and_images_that_cannot_be_are_told(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1",), 1)
    plate = json.loads((folder / ".zattrs").read_text())["plate"]
    plate["wells"] += [
        {"path": "Q/99", "rowIndex": 400, "columnIndex": 98},
        {"path": "../B/2", "rowIndex": 1, "columnIndex": 1},
        {"path": "B/3", "rowIndex": 1, "columnIndex": 2},
    ]
    change_json(folder / ".zattrs", plate=plate)
    assert repository.import_plate(folder).problems == (
        f"{folder} names a well 'Q/99' that is no place on a plate; it was left out",
        f"{folder} names a well '../B/2' that is no place on a plate; it was left out",
        f"B03 was left out: {folder}/B/3 names no images",
    )


def test_a_channel_that_is_named_twice_and_images_of_other_channels(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    folder = write_plate(tmp_path / "p.zarr", "0.4", ("A/1",), 2)
    twice = {"channels": [_channel("DAPI", "0000FF"), _channel("DAPI", "nonsense")]}
    change_json(folder / "A/1/1/.zattrs", omero=twice)
    summary = repository.import_plate(folder)
    assert summary.channels == ("DAPI", "GFP", "DAPI (channel 1)", "DAPI (channel 2)")
    assert "the images have different channels: DAPI, GFP in 1; DAPI (channel 1), DAPI (channel 2) in 1" in (
        summary.problems
    )
    image = repository.plate(summary.id).wells[0].fields[1].images[0]
    assert not image.layout.has(0, 0, 0)
    with repository.open(image) as opened:
        np.testing.assert_array_equal(opened.plane(1, 3, 2), pixels("A/1", 1)[1, 1, 2])


def test_a_group_that_is_no_plate_is_none(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2).attrs["multiscales"] = []
    with pytest.raises(RepositoryError, match="is not a plate that can be read"):
        choose(tmp_path)


class TestConformance(RepositoryConformance):
    """A plate in OME-Zarr is a plate like any other."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> MadePlate:
        return MadePlate(tmp_path / "made.zarr", ("A01", "B03"), 2, ("DAPI", "GFP"), 3, (24, 32), "uint16", 1)

    @pytest.fixture
    def repository(self, tmp_path: Path, made: MadePlate) -> Iterator[EmbeddedRepository]:
        def planes(path: str, field: int) -> NDArray[Any]:
            well = well_name(*parse_well(path.replace("/", "")))
            return np.stack([[np.stack([made.plane(well, field + 1, c, z) for z in range(made.z)]) for c in range(2)]])

        write_plate(made.folder, make=planes)
        with EmbeddedRepository(tmp_path / "repository") as repository:
            repository.import_plate(made.folder)
            yield repository


def test_a_plate_beside_one_of_another_format_is_an_error(repository: EmbeddedRepository, tmp_path: Path) -> None:
    write_plate(tmp_path / "both" / "one.zarr", wells=("A/1",), fields=1)
    made = write_tiffs(tmp_path / "both" / "two")
    with pytest.raises(RepositoryError, match=r"of 2 formats: ImageXpress \(.*\) and OME-Zarr \("):
        repository.import_plate(tmp_path / "both")
    assert repository.import_plate(tmp_path / "both", reader="ome-zarr").format == "OME-Zarr"
    assert repository.import_plate(made.folder).format == "ImageXpress"
