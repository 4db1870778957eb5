"""OpenHCS as the peer: an environment of its own, and runs of it without a display.

``python -m benchmarks.peer`` makes the environment. Inside it, ``python -m benchmarks.peer MODE FOLDER`` runs OpenHCS
on a plate and answers with its times; ``plain`` runs the same functions in a pool of two processes.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import CHECKOUT, SCRATCH, answer, cpu_seconds, pin_threads

_ENVIRONMENT = SCRATCH / "openhcs"
_OWN_NEEDS = ("openhcs>=0.8,<0.9", "distributed>=2024.8")


def peer_python() -> Path:
    """Return the interpreter that has OpenHCS, dask.distributed and what this project needs; installs them at first."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    needs = [*_OWN_NEEDS, *project["dependencies"]]
    stamp = _ENVIRONMENT / f"with-{hashlib.sha256(' '.join(needs).encode()).hexdigest()[:12]}"
    python = _ENVIRONMENT / "bin" / "python"
    if not stamp.exists():
        print(
            f"Installing OpenHCS and Dask into {_ENVIRONMENT} (1.7 GB, some minutes) ...", file=sys.stderr, flush=True
        )
        subprocess.run([sys.executable, "-m", "venv", _ENVIRONMENT], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *needs], check=True)
        stamp.touch()
    return python


class PeerFunctions(NamedTuple):
    """OpenHCS's own functions without its decorators."""

    normalize: Any
    blur: Any
    tophat: Any
    project: Any
    composite: Any


PEER_IMPORT = "from openhcs.processing.backends.processors import numpy_processor"
"""What a pipeline of OpenHCS's functions begins with."""


def peer_functions() -> PeerFunctions:
    """Import OpenHCS's functions and strip what it wraps them in."""
    from openhcs.processing.backends.processors import numpy_processor as module  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it

    names = ("stack_percentile_normalize", "gaussian_blur", "tophat", "create_projection", "create_composite")
    return PeerFunctions(*(inspect.unwrap(getattr(module, name)) for name in names))


def _steps() -> list[Any]:
    """Write the pipeline as a user of OpenHCS does."""
    from openhcs.constants.constants import GroupBy, VariableComponents  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from openhcs.core.config import LazyProcessingConfig  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from openhcs.core.steps.function_step import FunctionStep  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from openhcs.processing.backends.processors import numpy_processor as module  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it

    normalize = (module.stack_percentile_normalize, {"low_percentile": 1.0, "high_percentile": 99.0})
    along_z = LazyProcessingConfig(variable_components=[VariableComponents.Z_INDEX], group_by=GroupBy.CHANNEL)
    along_channels = LazyProcessingConfig(variable_components=[VariableComponents.CHANNEL], group_by=GroupBy.NONE)
    by_channel = {
        "1": [normalize, (module.gaussian_blur, {"sigma": 1.0})],
        "2": [normalize, (module.tophat, {"selem_radius": 20, "downsample_factor": 4})],
    }
    projection = (module.create_projection, {"method": module.NumpyStackProjectionMethod.MAX})
    return [
        FunctionStep(func=by_channel, name="preprocess", processing_config=along_z),
        FunctionStep(func=projection, name="projection", processing_config=along_z),
        FunctionStep(func=module.create_composite, name="composite", processing_config=along_channels),
    ]


def _openhcs(mode: str, folder: Path) -> None:
    """Run OpenHCS once and answer with the seconds of each part; what importing it takes is told apart."""
    import logging

    logging.disable(logging.WARNING)
    start = time.perf_counter()
    import multiprocessing

    from objectstate import ensure_global_config_context  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from openhcs.core.config import GlobalPipelineConfig, MultiprocessingStartMethod, PipelineConfig  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from openhcs.core.orchestrator.orchestrator import PipelineOrchestrator  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from openhcs.core.progress import set_progress_queue  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it

    steps = _steps()
    imported = time.perf_counter() - start
    output = folder.with_name(f"{folder.name}_openhcs")
    shutil.rmtree(output, ignore_errors=True)
    (folder / "openhcs_metadata.json").unlink(missing_ok=True)
    method = MultiprocessingStartMethod.FORK if mode == "fork" else MultiprocessingStartMethod.SPAWN
    choices = {
        "num_workers": 1 if mode == "inline" else 2,
        "use_threading": False,
        "multiprocessing_start_method": method,
    }
    ensure_global_config_context(GlobalPipelineConfig, GlobalPipelineConfig(**choices))
    queue = multiprocessing.get_context("spawn").Manager().Queue()
    set_progress_queue(queue)
    before = cpu_seconds()
    clock = [time.perf_counter()]
    orchestrator = PipelineOrchestrator(folder, pipeline_config=PipelineConfig(**choices)).initialize()
    clock.append(time.perf_counter())
    bundle = orchestrator.compile_pipelines(steps)
    clock.append(time.perf_counter())
    compiled = cpu_seconds()
    results = {}
    if mode != "compile":
        context = {"execution_id": "benchmark", "plate_id": str(folder)}
        results = orchestrator.execute_compiled_plate(bundle, progress_queue=queue, progress_context=context)
    clock.append(time.perf_counter())
    failed = {well: result.error_message for well, result in results.items() if not result.is_success()}
    if failed:
        raise RuntimeError(f"OpenHCS failed: {failed}")
    initialize, compile_, execute = (b - a for a, b in itertools.pairwise(clock))
    answer(
        import_s=imported,
        initialize_s=initialize,
        compile_s=compile_,
        execute_s=execute,
        total_s=clock[-1] - clock[0],
        cpu_s=cpu_seconds() - before,
        compile_cpu_s=compiled - before,
        files=len(list(output.rglob("*.tif"))) if output.exists() else 0,
    )


class _Plain:
    """The same functions on a well, in a plain loop: what a user writes who wants nothing but the results."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._np = np
        self._functions = peer_functions()
        self._output = folder.with_name(f"{folder.name}_plain")
        shutil.rmtree(self._output, ignore_errors=True)
        self._output.mkdir()
        self._files: dict[str, dict[tuple[int, str], list[Path]]] = defaultdict(lambda: defaultdict(list))
        for file in sorted(folder.rglob("*.tif")):
            match = re.match(r"(\w+?)_s(\d+)_w(\d+)", file.name)
            assert match is not None
            self._files[match[1]][int(match[2]), match[3]].append(file)

    @property
    def wells(self) -> list[str]:
        return sorted(self._files)

    def read(self, well: str) -> dict[tuple[int, str], Any]:
        import tifffile

        return {
            key: self._np.stack([tifffile.imread(file) for file in files]) for key, files in self._files[well].items()
        }

    def compute(self, stacks: dict[tuple[int, str], Any]) -> dict[int, Any]:
        f = self._functions
        flat = {}
        for (site, channel), planes in stacks.items():
            stack = f.normalize(planes, low_percentile=1.0, high_percentile=99.0)
            first = channel == "1"
            stack = f.blur(stack, sigma=1.0) if first else f.tophat(stack, selem_radius=20, downsample_factor=4)
            flat[site, channel] = f.project(stack)
        sites = sorted({site for site, _ in flat})
        return {site: f.composite(self._np.stack([flat[site, "1"], flat[site, "2"]])) for site in sites}

    def well(self, well: str) -> None:
        import tifffile

        for site, image in self.compute(self.read(well)).items():
            tifffile.imwrite(self._output / f"{well}_s{site}.tif", image)


_PLAIN: list[_Plain] = []


def _plain_well(well: str) -> None:
    _PLAIN[0].well(well)


def _plain(folder: Path) -> None:
    """Run the functions in a pool of two processes, a well a task; answer with its time and the functions' own CPU."""
    import multiprocessing

    plain = _Plain(folder)
    _PLAIN.append(plain)
    # One well beforehand, so that no worker pays for the first call of a library.
    plain.well(plain.wells[0])
    before, start = cpu_seconds(), time.perf_counter()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(_plain_well, plain.wells, chunksize=1)
        answer(total_s=time.perf_counter() - start, cpu_s=cpu_seconds() - before)


def _functions_cpu(folder: Path) -> None:
    """Answer with the CPU that the functions take on arrays in memory."""
    plain = _Plain(folder)
    stacks = [plain.read(well) for well in plain.wells]
    plain.compute(stacks[0])
    start = time.process_time()
    for one in stacks:
        plain.compute(one)
    answer(cpu_s=time.process_time() - start)


if __name__ == "__main__":
    pin_threads()
    if len(sys.argv) == 1:
        print(peer_python())
    elif sys.argv[1] == "plain":
        _plain(Path(sys.argv[2]))
    elif sys.argv[1] == "functions":
        _functions_cpu(Path(sys.argv[2]))
    else:
        _openhcs(sys.argv[1], Path(sys.argv[2]))
