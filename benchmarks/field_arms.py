"""The processes of benchmarks that do the 96 fields: the floor, dask.distributed, this project alone and on Dask.

``python -m benchmarks.field_arms floor|distributed|ours|dask FOLDER`` answers each request with the seconds it took.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.processes import SCRATCH, answer, pin_threads

_STAGES = ("read", "compute", "write")


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _fresh(name: str) -> Path:
    folder = SCRATCH / "work" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _empty(folder: Path) -> None:
    """Give back what a round has written; its files stay until the arm begins anew.

    For minutes ext4 passes over every inode that was removed when it looks for a new one: each round would pay for
    all those before it.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            os.truncate(file, 0)


def _keep_memory() -> None:
    """Have malloc keep what is freed; without it page faults are a third of the work, which no floor may hold."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, (1 << 31) - 1)


def _stage(stage: str, part: int, folder: Path, out: Path, start: Any, seconds: Any) -> None:
    """Do one stage of every second field, while the other process does those between."""
    from benchmarks import fields

    _keep_memory()
    files = fields.field_files(folder)[part::2]
    planes = fields.PlaneMap(files[0][0])

    def read(i: int) -> Any:
        return [planes.read(file) for file in files[i]]

    works: dict[str, Callable[[int], object]] = {"read": read}
    if stage != "read":
        stacks = [read(i) for i in range(len(files))]
        works["compute"] = lambda i: fields.compute(stacks[i])
    if stage == "write":
        results = [fields.compute(one) for one in stacks]
        works["write"] = lambda i: fields.write(results[i], out, files[i][0].stem)
    else:
        for i in range(min(4, len(files))):
            works[stage](i)
    start.wait()
    clock = time.perf_counter()
    for i in range(len(files)):
        works[stage](i)
    seconds.put(time.perf_counter() - clock)


def _floor(folder: Path) -> None:
    from benchmarks import fields

    # Libraries are loaded and used once before any fork.
    first = fields.field_files(folder)[0]
    work = _fresh("floor")
    fields.whole(first, fields.PlaneMap(first[0]), work)
    context = multiprocessing.get_context("fork")
    for number, _ in enumerate(_requests()):
        found = {}
        out = work / str(number)
        out.mkdir()
        for stage in _STAGES:
            start, queue = context.Barrier(2), context.SimpleQueue()
            pair = [context.Process(target=_stage, args=(stage, i, folder, out, start, queue)) for i in range(2)]
            for process in pair:
                process.start()
            # Their mean, not the longer: a floor has no idle core.
            found[stage] = sum(queue.get() for _ in pair) / 2
            for process in pair:
                process.join()
        answer(seconds=sum(found.values()), **found)
        _empty(out)


def _distributed(folder: Path) -> None:
    import dask
    from distributed import Client, LocalCluster  # type: ignore[import-not-found,unused-ignore]  # an extra

    from benchmarks import fields

    files = fields.field_files(folder)
    planes = fields.PlaneMap(files[0][0])
    dask.config.set({"distributed.comm.retry.count": 0})
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        work = _fresh("distributed")
        for number, _ in enumerate(_requests()):
            out = work / str(number)
            out.mkdir()
            clock = time.perf_counter()
            futures = client.map(fields.whole, files, planes=planes, out=out, pure=False)
            objects = sum(client.gather(futures))
            answer(seconds=time.perf_counter() - clock, objects=objects)
            _empty(out)


def _on_dask(folder: Path) -> None:
    from distributed import LocalCluster

    from openhcs_jupyter.engine.dask import DaskExecutor

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        _ours(folder, DaskExecutor(cluster.scheduler_address))


def _ours(folder: Path, executor: Any = None) -> None:
    from benchmarks import fields
    from openhcs_jupyter import compile, discover, run
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    repository = EmbeddedRepository(_fresh("ours" if executor is None else "dask"))
    plate = repository.plate(repository.import_plate(folder).id)
    topology = discover()
    for salt, _ in enumerate(_requests()):
        plan = compile(fields.pipeline(plate, salt), plate, topology, workers=2)
        clock = time.perf_counter()
        done = run(plan, executor).result()
        seconds = time.perf_counter() - clock
        answer(seconds=seconds, objects=len(done.table("objects")), units=done.progress.stages[0].done)
        _empty(done.folder / "units")
        _empty(done.folder / "waypoints")


if __name__ == "__main__":
    pin_threads()
    {"floor": _floor, "distributed": _distributed, "ours": _ours, "dask": _on_dask}[sys.argv[1]](Path(sys.argv[2]))
