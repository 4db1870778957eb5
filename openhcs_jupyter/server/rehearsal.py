"""A run of nothing, by which a process from which others are forked gets to know the way; what it looks up stays."""

from __future__ import annotations

import tempfile
from pathlib import Path

_CELL = """
pipeline_steps = [Step({"W1": (gaussian_blur, {"sigma": 1})}), Step(max_projection, save=True)]
"""
_SIZE = 16


def rehearse() -> None:
    """Register a plate of one small image, run a pipeline on it in a folder that is removed, and forget it."""
    from openhcs_jupyter.compiler.plan import ExecutionPlan
    from openhcs_jupyter.door import RunOptions, Script, Source, choose_plate, define_steps, plan_run, start
    from openhcs_jupyter.engine import fork_server
    from openhcs_jupyter.functions.words import pipeline_words
    from openhcs_jupyter.repository import connect
    from openhcs_jupyter.topology import Topology

    machine = Topology(host="rehearsal", cores=2, memory_bytes=1 << 32, memory_free_bytes=1 << 31)
    fork_server().branch()
    with tempfile.TemporaryDirectory(prefix="openhcs-", ignore_cleanup_errors=True) as folder:
        uri = str(Path(folder) / "repository")
        _register(Path(folder) / "plate", uri)
        source = Source("rehearsal", _CELL, "<rehearsal>")
        steps = define_steps(source, _CELL, {**pipeline_words(), "__name__": "__main__"})
        with connect(uri) as repository:
            plate = choose_plate(repository, RunOptions())
        options = RunOptions(workers=2, save=False)
        plan: ExecutionPlan = plan_run(steps, source, plate, options, Script(_CELL, {}), machine)
        start(plan, options, "rehearsal").wait()
    fork_server().stop()  # those that are forked have their own


def _register(folder: Path, uri: str) -> None:
    import numpy as np
    import tifffile

    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    place = folder / "TimePoint_1"
    place.mkdir(parents=True)
    (folder / "plate.HTD").write_text(
        '"HTSInfoFile", Version 1.0\n"XWells", 1\n"YWells", 1\n"NWavelengths", 1\n"WaveName1", "W1"\n"EndFile"\n'
    )
    tifffile.imwrite(place / "plate_A01_s1_w1.tif", np.zeros((_SIZE, _SIZE), np.uint16))
    with EmbeddedRepository(uri) as repository:
        repository.import_plate(folder)
