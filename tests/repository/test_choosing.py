"""Which reader takes a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from openhcs_jupyter.errors import RepositoryError, UsageError
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.repository.embedded.formats import Reader, choose
from tests.repository.images import write_images


def test_a_folder_of_other_files_is_refused(repository: EmbeddedRepository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "p", "overview.tif")
    with pytest.raises(RepositoryError, match=r"is not a plate that can be read: it has overview.tif"):
        repository.import_plate(folder)


def test_a_reader_of_another_package_wins_where_it_is_surer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Reader):
        name = "Other"
        looks_for = "anything"

        def recognise(self, folder: Path) -> float:
            return 0.7

        def read(self, folder: Path, progress: object = None) -> object:
            raise NotImplementedError

    class Entry:
        def load(self) -> type[Reader]:
            return Other

    groups: list[str] = []
    monkeypatch.setattr(
        "openhcs_jupyter.repository.embedded.formats.choosing.entry_points",
        lambda group: groups.append(group) or [Entry()],
    )
    assert choose(write_images(tmp_path / "names alone", "A01_s1_w1.tif")).name == "Other"
    assert choose(write_images(tmp_path / "levels", "ZStep_1/A01_s1_w1.tif")).name == "ImageXpress"
    assert groups == ["openhcs_jupyter.formats"] * 2


def test_folders_of_chunks_are_not_walked_through(tmp_path: Path) -> None:
    hidden = tmp_path / "other.zarr" / "0"
    hidden.mkdir(parents=True)
    (tmp_path / "other.zarr" / ".zgroup").write_text("{}")
    write_images(hidden, "A01_s1_w1.tif")
    with pytest.raises(RepositoryError, match="is not a plate that can be read"):
        choose(tmp_path)


def test_two_formats_in_one_folder_are_an_error_unless_one_is_named(
    repository: EmbeddedRepository, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "screen", "one/TimePoint_1/A01_s1_w1.tif")
    (folder / "two").mkdir()
    (folder / "two" / "MeasurementData.mlf").write_text("<MeasurementData/>")
    with pytest.raises(RepositoryError, match=r"of 2 formats: ImageXpress \(.*\) and Yokogawa \(") as raised:
        repository.import_plate(folder)
    assert raised.value.hint is not None
    assert "--format ImageXpress" in raised.value.hint
    assert repository.import_plate(folder, reader="imagexpress").format == "ImageXpress"
    with pytest.raises(RepositoryError, match=r"MeasurementData\.mlf lists no images"):
        repository.import_plate(folder, reader="Yokogawa")


def test_a_surer_format_wins(tmp_path: Path) -> None:
    folder = write_images(tmp_path, "A01_s1_w1.tif")
    assert choose(folder).name == "ImageXpress"
    (folder / "Index.idx.xml").write_text("<EvaluationInputData/>")
    assert choose(folder).name == "Opera"


def test_an_index_of_another_program_is_no_plate(tmp_path: Path) -> None:
    (tmp_path / "Index.xml").write_text("<html/>")
    with pytest.raises(RepositoryError, match="is not a plate that can be read"):
        choose(tmp_path)


def test_a_format_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no format 'Nikon'") as raised:
        choose(tmp_path, name="Nikon")
    assert raised.value.hint == "Formats: ImageXpress, Yokogawa, Opera, OME-Zarr, OME-TIFF."


def test_a_format_and_a_pattern_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        choose(tmp_path, name="Opera", pattern="{well}.tif")
