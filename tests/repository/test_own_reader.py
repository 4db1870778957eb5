"""The reader in the documentation: installed as another lab would, and used by the command and its workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openhcs_jupyter.engine import load_run
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.embedded import EmbeddedRepository

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
FILES = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
PIPELINE = """
from openhcs_jupyter import Step

pipeline_steps = [Step(lambda stack: stack + 1, name="up", save=True)]
"""


def pixels(well: str, field: int, c: int) -> NDArray[np.uint16]:
    seed = [ord(letter) for letter in well] + [field, c]
    return np.random.default_rng(seed).integers(0, 4000, (20, 30)).astype("<u2")


def write_deck(folder: Path) -> Path:
    folder.mkdir()
    images = []
    for well in ("A01", "H12"):
        for field in (1, 2):
            name = f"{well}_{field}.deck"
            planes = (zlib.compress(pixels(well, field, c).tobytes()) for c in range(2))
            (folder / name).write_bytes(b"".join(b"PLANE" + plane for plane in planes))
            images.append({"well": well, "field": field, "file": name, "position_um": [10.0 * field, 0.0]})
    told = {"name": "deck 7", "pixel_um": 0.4, "channels": ["blue", "green"], "size": [20, 30], "images": images}
    (folder / "deck.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package that the page shows."""
    source, site = tmp_path_factory.mktemp("deck-format"), tmp_path_factory.mktemp("site")
    files = FILES.findall(PAGE.read_text())
    assert [name for name, _ in files] == ["pyproject.toml", "deck_format.py"]
    for name, text in files:
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, source], check=True, timeout=120)
    return site


def openhcs(site: Path | None, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that finds, or does not find, the package."""
    path = os.pathsep.join([str(PAGE.parents[1]), *([str(site)] if site else [])])
    return subprocess.run(
        [sys.executable, "-m", "openhcs_jupyter.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_reader_on_the_page_is_installed_and_used(installed: Path, tmp_path: Path) -> None:
    folder = write_deck(tmp_path / "deck")
    where = ["--repository", tmp_path / "repository"]
    unknown = openhcs(None, "import", folder, *where)
    assert unknown.returncode != 0
    assert "is not a plate that can be read" in unknown.stderr

    done = openhcs(installed, "import", folder, *where)
    assert done.returncode == 0, done.stderr
    assert "Plate 1, deck 7: Deck, 2 wells, 4 fields, 8 planes of blue, green" in done.stdout

    (tmp_path / "pipeline.py").write_text(PIPELINE)
    done = openhcs(installed, "run", tmp_path / "pipeline.py", *where, "--workers", 2)
    assert done.returncode == 0, done.stderr
    with EmbeddedRepository(tmp_path / "repository") as repository:
        plate = repository.plate("deck 7")
        assert [field.position_um for field in plate.wells[0].fields] == [(10.0, 0.0), (20.0, 0.0)]
        run = load_run(repository, "run")
        for well, field in plate.fields():
            expected = [pixels(well.name, field.number, c) + 1 for c in range(2)]
            image = run.image("up", well=well.name, field=field.number)
            np.testing.assert_array_equal(image[0, :, 0], expected)
        # Without the package, its planes cannot be decoded.
        with (
            repository.open(plate.wells[0].fields[0].images[0]) as opened,
            pytest.raises(RepositoryError, match="imported as Deck, and no reader of that format is installed here"),
        ):
            opened.plane(0, 0, 0)


def test_files_that_are_gone_or_damaged_are_told_as_for_any_format(installed: Path, tmp_path: Path) -> None:
    folder = write_deck(tmp_path / "deck")
    (folder / "A01_2.deck").unlink()
    where = ["--repository", tmp_path / "repository"]
    assert (
        f"{folder}/A01_2.deck is not there, deck.json lists it" in openhcs(installed, "import", folder, *where).stdout
    )
    (folder / "H12_1.deck").write_bytes(b"PLANEnonsense")
    openhcs(installed, "import", folder, *where)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    done = openhcs(installed, "run", tmp_path / "pipeline.py", *where)
    assert done.returncode != 0
    assert f"{folder}/H12_1.deck cannot be decoded" in done.stdout + done.stderr
