"""The first line of a cell: what is understood, and what is said of a mistake."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openhcs_jupyter.config import config_file, load_settings, save_setting
from openhcs_jupyter.door import RunOptions
from openhcs_jupyter.door.places import parse_channels, parse_fields, parse_wells
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.options import parse_cell
from openhcs_jupyter.model import Field, Plate, Well, parse_well, well_name


def plate_of(*names: str, rows: int = 8, columns: int = 12) -> Plate:
    wells = []
    for number, name in enumerate(names):
        row, column = parse_well(name)
        wells.append(Well(id=number, row=row, column=column, fields=(Field(id=number, number=1, images=()),)))
    return Plate(id=1, name="p", repository="/r", rows=rows, columns=columns, channels=(), wells=tuple(wells))


WHOLE = plate_of(*(well_name(row, column) for row in range(8) for column in range(12)))


def test_a_full_line_is_understood() -> None:
    options = parse_cell(
        "nuclei --plate 51 --wells A01:B02 --fields 1-2 --channels DAPI,GFP --source projection --skip-missing --save "
        "--on-error stop --workers 2 --device cpu --background --quiet"
    )
    assert options == RunOptions(
        name="nuclei", plate="51", wells="A01:B02", fields="1-2", channels="DAPI,GFP", source="projection",
        skip_missing=True, save=True, on_error="stop", workers=2, device="cpu", background=True, quiet=True,
    )  # fmt: skip


def test_nothing_takes_the_defaults_and_the_settings_decide_on_saving() -> None:
    assert parse_cell("") == RunOptions(name="run", save=None)


@pytest.mark.parametrize("line", ["nuclei --plate 51", "--plate 51 nuclei", "--plate=51 nuclei"])
def test_the_name_stands_where_the_user_puts_it(line: str) -> None:
    assert (parse_cell(line).name, parse_cell(line).plate) == ("nuclei", "51")


def test_quotes_keep_spaces_together() -> None:
    options = parse_cell('--plate "My plate" --channels "Cy 5,DAPI"')
    assert (options.plate, options.channels) == ("My plate", "Cy 5,DAPI")


def test_resume_takes_a_run_or_the_last_one() -> None:
    assert parse_cell("nuclei --resume").resume == "last"
    assert parse_cell("nuclei --resume nuclei-7").resume == "nuclei-7"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--plat 3", "There is no option --plat\n  Did you mean --plate?"),
        ("--dryrun", "There is no option --dryrun\n  Did you mean --dry-run?"),
        ("--plate", "--plate: a value is missing"),
        ("--on-error stpo", "--on-error: there is no choice 'stpo'\n  Did you mean stop?"),
        ("--source stacks", "Did you mean stack?"),
        ("--workers two", "--workers: 'two' is not a whole number"),
        ("--workers 0", "a run needs at least one worker"),
        ("--device cuda:0", "--device cuda:0: there is no such device\n  Devices are auto, cpu, gpu, gpu:0"),
        ("--device gpu:", "there is no such device"),
        ("--preview A01 --save", "--preview and --save exclude each other"),
        ("--preview A01 --wells A02", "--preview chooses the well and field itself"),
        ("--resume --force", "--resume and --force exclude each other"),
        ("nuclei 'open", "Close the quote."),
        ("one two", "There is no option two"),
    ],
)
def test_a_mistake_is_named_with_what_was_probably_meant(line: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_cell(line)
    assert said in str(error.value)


@given(st.text(string.ascii_letters + string.digits + "-=,: '\"$\\", max_size=40))
@example("--save=3")
@example("--")
def test_any_line_is_understood_or_refused_but_never_ends_the_kernel(line: str) -> None:
    try:
        options = parse_cell(line)
    except UsageError:
        return
    assert options.on_error in ("continue", "stop")


@pytest.mark.parametrize(
    ("text", "wells"),
    [
        ("A01", "A01"),
        ("a1, B02", "A01 B02"),
        ("A01:B02", "A01 A02 B01 B02"),
        ("B02:A01", "A01 A02 B01 B02"),
        ("A01:A03,A02:A04", "A01 A02 A03 A04"),
        ("row:H,A01", "A01 " + " ".join(f"H{column:02d}" for column in range(1, 13))),
        ("col:12", " ".join(f"{row}12" for row in "ABCDEFGH")),
        ("row:A-B,", " ".join(f"{row}{column:02d}" for row in "AB" for column in range(1, 13))),
        ("col:01-02", " ".join(f"{row}{column:02d}" for row in "ABCDEFGH" for column in (1, 2))),
    ],
)
def test_wells_are_named_alone_in_blocks_rows_and_columns(text: str, wells: str) -> None:
    assert parse_wells(text, WHOLE) == tuple(wells.split())


def test_a_block_takes_those_wells_that_the_plate_has() -> None:
    assert parse_wells("A01:C03", plate_of("A02", "C03", "D04")) == ("A02", "C03")


@pytest.mark.parametrize("text", ["row:B", "B01:B12", "col:7"])
def test_a_block_without_wells_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="takes no well of plate 'p'"):
        parse_wells(text, plate_of("A01", "A02"))


@pytest.mark.parametrize("text", ["", ",", "A", "1A", "A00", "row:1", "col:A", "row:", "A01:", "A01-A03", "row:A-"])
def test_what_is_no_well_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--wells"):
        parse_wells(text, WHOLE)


CELLS = st.tuples(st.integers(0, 7), st.integers(0, 11))


@given(CELLS, CELLS)
def test_a_block_is_all_wells_between_its_corners(first: tuple[int, int], last: tuple[int, int]) -> None:
    wells = parse_wells(f"{well_name(*first)}:{well_name(*last)}", WHOLE)
    rows, columns = (sorted(pair) for pair in zip(first, last, strict=True))
    assert set(wells) == {
        well.name for well in WHOLE.wells if rows[0] <= well.row <= rows[1] and columns[0] <= well.column <= columns[1]
    }


@given(st.text(string.ascii_letters + string.digits + ":-, ", max_size=20))
def test_any_wells_are_understood_or_refused(text: str) -> None:
    try:
        wells = parse_wells(text, WHOLE)
    except UsageError:
        return
    assert wells
    assert list(wells) == sorted(set(wells), key=parse_well)


@given(st.sets(st.integers(1, 99), min_size=1))
def test_fields_come_back_as_they_were_named(fields: set[int]) -> None:
    assert parse_fields(",".join(map(str, fields))) == tuple(sorted(fields))


def test_fields_are_ranges_too() -> None:
    assert parse_fields("7, 1-3") == (1, 2, 3, 7)


@pytest.mark.parametrize("text", ["0", "3-1", "a", "1-", "-1", "", "1.5"])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fields"):
        parse_fields(text)


def test_channels_keep_their_order_and_are_taken_once() -> None:
    assert parse_channels("GFP, DAPI,GFP") == ("GFP", "DAPI")


def test_a_setting_is_written_into_the_file_as_the_user_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    save_setting("viewer_host", 'a "b" \N{GREEK SMALL LETTER MU}')
    before = config_file().read_text()
    config_file().write_text(f"# Of the lab's machine\n\nworkers = 4  # the others are ours\n{before}\n# The end\n")
    settings = save_setting("workers", "2")
    assert (settings.workers, settings.viewer_host) == (2, 'a "b" \N{GREEK SMALL LETTER MU}')
    assert save_setting("memory_gb", "8").memory_gb == 8
    assert save_setting("save", "true") == load_settings()
    text = config_file().read_text()
    assert text.startswith(f"# Of the lab's machine\n\nworkers = 2  # the others are ours\n{before}\n# The end\n")
    assert [path.name for path in config_file().parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("content", [b"workers = ", b'repository = "\xff"'])
def test_a_file_of_settings_that_cannot_be_read_is_named_and_left(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config_file().parent.mkdir(parents=True)
    config_file().write_bytes(content)
    for use in (load_settings, lambda: save_setting("workers", "2")):
        with pytest.raises(UsageError, match=r"config\.toml is not valid TOML"):
            use()
    assert config_file().read_bytes() == content
