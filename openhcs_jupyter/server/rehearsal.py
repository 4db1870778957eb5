"""A run of nothing, by which a process gets to know the way before it has a job; what it looks up stays.

So does its memory: a process that was forked shares it with its parent until it first writes, page by page, which is a
third of the time that a small job needs to begin.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path

_CELL = """
pipeline_steps = [Step({"W1": [percentile_normalize, gaussian_blur, top_hat]}), Step(max_projection, save=True)]
"""
_SIZE = 16
_PATIENCE_S = 5.0
"""It takes some tenths of a second; whatever keeps it longer must not keep a job."""


def rehearse() -> Generator[None]:
    """Register a plate of few small images, run a pipeline on it in a folder that is removed, and forget it.

    Each of the workers does one; they stay for the next run. Goes from step to step as it is iterated; closed before
    the end, it leaves nothing behind.
    """
    from openhcs_jupyter.compiler.plan import ExecutionPlan
    from openhcs_jupyter.door import RunOptions, Script, Source, choose_plate, define_steps, plan_run
    from openhcs_jupyter.engine import LocalExecutor, run
    from openhcs_jupyter.engine.forking import most_spares
    from openhcs_jupyter.functions.words import pipeline_words
    from openhcs_jupyter.repository import connect
    from openhcs_jupyter.topology import Topology

    workers = most_spares()
    machine = Topology(host="rehearsal", cores=workers, memory_bytes=1 << 32, memory_free_bytes=1 << 31)
    with tempfile.TemporaryDirectory(prefix="openhcs-", ignore_cleanup_errors=True) as folder:
        uri = str(Path(folder) / "repository")
        _register(Path(folder) / "plate", uri, workers)
        yield
        source = Source("rehearsal", _CELL, "<rehearsal>")
        steps = define_steps(source, _CELL, {**pipeline_words(), "__name__": "__main__"})
        with connect(uri) as repository:
            plate = choose_plate(repository, RunOptions())
        options = RunOptions(workers=workers, save=False)
        plan: ExecutionPlan = plan_run(steps, source, plate, options, Script(_CELL, {}), machine)
        yield
        started = run(plan, LocalExecutor(workers_stay=True))
        if not started.wait(_PATIENCE_S):
            started.cancel()
            started.wait(_PATIENCE_S)


def _register(folder: Path, uri: str, images: int) -> None:
    import numpy as np
    import tifffile

    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    place = folder / "TimePoint_1"
    place.mkdir(parents=True)
    (folder / "plate.HTD").write_text(
        f'"HTSInfoFile", Version 1.0\n"XWells", {images}\n"YWells", 1\n'
        '"NWavelengths", 1\n"WaveName1", "W1"\n"EndFile"\n'
    )
    for number in range(1, images + 1):
        tifffile.imwrite(place / f"plate_A{number:02}_s1_w1.tif", np.zeros((_SIZE, _SIZE), np.uint16))
    with EmbeddedRepository(uri) as repository:
        repository.import_plate(folder)
