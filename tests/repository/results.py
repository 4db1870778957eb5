"""Results as a run would have them, and a writer that saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from openhcs_jupyter.model import Channel, ResultSpec, RunRecord
from openhcs_jupyter.repository import FieldResults
from openhcs_jupyter.repository.embedded.layout import INDEX
from openhcs_jupyter.repository.embedded.results import OmeZarrWriter

CHANNELS = (Channel(name="DAPI", color="0000FF"), Channel(name="GFP"))


SPECS = (
    ResultSpec(name="projection", kind="image", step=0, scope="field", channels=("DAPI", "GFP")),
    ResultSpec(name="nuclei", kind="labels", step=1, scope="field", channels=("DAPI",), over="projection"),
    ResultSpec(name="cells", kind="table", step=2, scope="field"),
)


PLACES = [("A01", 1), ("A01", 2), ("B12", 1)]


def writer(folder: Path, run: str = "run-1") -> OmeZarrWriter:
    record = RunRecord(
        id=run,
        name="nuclei",
        repository=str(folder),
        plate_id=51,
        plate_name="Screen 7",
        source="pipeline_steps = []",
        source_name="Cell In[3]",
        options={},
        user="ada",
        host="lab",
        started="2026-11-22T10:00:00Z",
        versions={},
        inputs={},
    )
    return OmeZarrWriter(folder / run, record)


def begun(folder: Path, specs: tuple[ResultSpec, ...] = SPECS) -> OmeZarrWriter:
    made = writer(folder)
    made.begin(specs, CHANNELS, 8, 12)
    return made


def pixels(well: str, field: int, size: tuple[int, int] = (300, 421), z: int = 1) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng([ord(letter) for letter in well] + [field])
    return {
        "projection": rng.integers(100, 4000, (1, 2, z, *size), dtype=np.uint16),
        "nuclei": rng.integers(0, 50, (1, 1, z, *size), dtype=np.int32),
    }


def results_of(well: str, field: int, **arrays: NDArray[Any]) -> FieldResults:
    return FieldResults(
        well=well,
        field=field,
        arrays=arrays or pixels(well, field),
        pixel_size_um=0.5,
        z_step_um=2.0,
        position_um=(1000.0, 2000.0),
    )


def save(folder: Path) -> Path:
    made = begun(folder)
    for well, field in PLACES:
        made.write_field(results_of(well, field))
    made.write_table("cells", pd.DataFrame({"well": ["A01", "B12"], "area": [10.5, 7.0]}))
    return Path(made.finish(PLACES, {"provenance.json": b"{}", "cell.py": b"pipeline_steps = []"}))


def tree(folder: Path) -> dict[str, bytes]:
    """All files but the index, which tells the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != INDEX
    }
