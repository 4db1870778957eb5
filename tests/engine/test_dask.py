"""A Dask cluster does what any executor must do, and what is its own: machines that are lost, blind or strange."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue  # noqa: F401 - its configuration, before tests change it
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

from openhcs_jupyter import Step, functions
from openhcs_jupyter.cli import main
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import Executor, Run, run
from openhcs_jupyter.engine.dask import DaskExecutor, topology_of
from openhcs_jupyter.engine.dask.seat import PROGRAM
from openhcs_jupyter.errors import RunError, UsageError
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.topology import Simulation, save_topology
from tests.engine.bench import LONGEST_S, Bench, contents, descendants, ended, fresh, journal, lines, until
from tests.engine.conformance import ExecutorConformance, everything
from tests.engine.functions import negative, note
from tests.engine.pipeline_script import plan_of
from tests.engine.test_devices import played

CHECKOUT = Path(__file__).parents[2]
ALONE = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Return two Dask workers with two threads each; a task that has lost two workers is given up."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, **ALONE) as cluster,
    ):
        yield cluster


@pytest.fixture
def executor(cluster: LocalCluster) -> Executor:
    """Return an executor on the cluster."""
    return DaskExecutor(cluster.scheduler_address)


class TestDaskExecutor(ExecutorConformance):
    most_held = 40
    """Two batches in flight and two that wait, each of as many units as take a hundredth of a second: at most ten."""

    @pytest.fixture
    def executor(self, cluster: LocalCluster) -> Executor:
        return DaskExecutor(cluster.scheduler_address, batch_s=0.01)


def dask_worker() -> int:
    """Find the Dask worker above this process: above the process that forked it."""
    return psutil.Process().parents()[1].pid


def fails(bench: Bench, executor: Executor) -> str:
    """Run a step that cannot be done at all, and return why."""
    started = bench.run(Step(negative, channel="DAPI"), executor=executor)
    assert started.status == "failed"
    return started.message


def test_units_of_a_dask_worker_that_is_killed_are_done_elsewhere(
    make_bench: Callable[..., Bench], executor: Executor
) -> None:
    bench = make_bench(fields=8, z=1, size=(8, 8))
    log, gate = bench.folder / "log.txt", bench.folder / "gate"

    def gated(stack: Any, context: Any) -> Any:
        import time

        note(log, f"{context.well}{context.field} {dask_worker()}")
        while not gate.exists():
            time.sleep(0.002)
        return stack

    plan = bench.compile(Step(gated, channel="DAPI"), *everything(), workers=4)
    started = run(plan, executor)
    until(lambda: len(lines(log)) == 4, "four units to begin")
    by_worker = dict(line.split() for line in lines(log))
    killed = int(by_worker["A011"])
    theirs = {place for place, worker in by_worker.items() if int(worker) == killed}
    below = descendants(killed)
    os.kill(killed, signal.SIGKILL)
    until(ended([killed, *below]), "the Dask worker to be gone, with what it started")
    gate.touch()
    assert started.wait(LONGEST_S)
    started.result()
    calls = Counter(line.split()[0] for line in lines(log))
    assert {place for place, count in calls.items() if count > 1} == theirs
    assert len(calls) == 16
    assert contents(started) == contents(run(plan, force=True).result())


def test_a_unit_that_costs_one_dask_worker_after_another_fails_alone(
    make_bench: Callable[..., Bench], executor: Executor
) -> None:
    bench = make_bench(fields=3, z=1, size=(8, 8))

    def deadly(stack: Any, context: Any) -> Any:
        if (context.well, context.field) == ("B02", 2):
            os.kill(dask_worker(), signal.SIGKILL)
            threading.Event().wait()
        return stack

    started = bench.run(Step(deadly, channel="DAPI"), executor=executor)
    (failure,) = started.failures
    assert (failure.well, failure.field) == ("B02", 2)
    assert "the Dask worker that did it was lost" in failure.message
    assert started.progress.stages[0].done == 5


def test_a_killed_notebook_leaves_nothing_running_and_its_run_can_be_resumed(
    make_bench: Callable[..., Bench], cluster: LocalCluster, executor: Executor
) -> None:
    bench = make_bench(fields=6, z=1, size=(8, 8))
    log = bench.folder / "log.txt"
    (bench.folder / "slow").touch()
    command = [sys.executable, "-m", "tests.engine.pipeline_script", bench.repository.uri, str(log)]
    conductor = subprocess.Popen([*command, cluster.scheduler_address])
    try:
        until(lambda: len(lines(log)) >= 4, "some units to be done")
    finally:
        conductor.kill()
        conductor.wait()
    with Client(cluster) as client:
        until(lambda: not any(client.run(_computing).values()), "what the killed notebook began to end")
    plan = plan_of(bench.repository.uri, log)
    resumed = run(plan, executor, resume="last").result()
    assert len(fresh(resumed)) < len(plan.units)
    assert contents(resumed) == contents(run(plan, force=True).result())


def _computing(dask_worker: Any) -> int:
    return len(dask_worker.state.executing)


def test_the_summary_says_where_it_ran(bench: Bench, executor: Executor, cluster: LocalCluster) -> None:
    started = bench.done(Step(negative, channel="DAPI"), executor=executor)
    assert started.where == f"on Dask ({cluster.scheduler_address})"
    assert f"4 of 4 units done on Dask ({cluster.scheduler_address})" in started.summary()


def test_a_plan_is_made_for_the_workers_of_the_cluster(cluster: LocalCluster) -> None:
    found = topology_of(cluster.scheduler_address)
    assert found.cores == 4
    assert found.memory_free_bytes > 0


def test_the_program_does_not_stay_in_the_run_s_folder(bench: Bench, executor: Executor) -> None:
    started = bench.done(Step(negative, channel="DAPI"), executor=executor)
    assert not (started.folder / PROGRAM).exists()


def test_a_scheduler_that_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openhcs_jupyter.engine.dask.cluster._CONNECT_S", 0.5)
    with pytest.raises(RunError, match=r"scheduler at tcp://127\.0\.0\.1:9 does not answer"):
        topology_of("tcp://127.0.0.1:9")
    assert "scheduler at tcp://127.0.0.1:9 does not answer" in fails(bench, DaskExecutor("tcp://127.0.0.1:9"))


def test_a_cluster_without_workers(bench: Bench) -> None:
    with LocalCluster(n_workers=0, **ALONE) as empty:
        address = empty.scheduler_address
        with pytest.raises(RunError, match="has no workers"):
            topology_of(address)
        assert "has had no workers for 0.2 s" in fails(bench, DaskExecutor(address, patience_s=0.2))


def test_workers_with_another_version(bench: Bench, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openhcs_jupyter.engine.dask.executor.version", lambda: "openhcs-jupyter 99 on Python 3.99")
    message = fails(bench, executor)
    assert "The Dask worker tcp://127.0.0.1" in message
    assert "the run needs openhcs-jupyter 99 on Python 3.99" in message


@contextmanager
def worker_alone(scheduler: str, *before: str, options: Sequence[str] = (), **environment: str) -> Iterator[None]:
    """Start a Dask worker apart from the others, by the command `before` and in an `environment` of its own."""
    command = [*before, sys.executable, "-m", "dask", "worker", scheduler, "--nthreads", "1", "--no-nanny", *options]
    worker = subprocess.Popen(
        [*command, "--dashboard-address", "127.0.0.1:0"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment,
        cwd="/",  # Python finds modules where it is started
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_without_this_package(bench: Bench, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow" / "openhcs_jupyter"
    hollow.mkdir(parents=True)
    (hollow / "__init__.py").write_text("raise ImportError('it is not here')\n")
    with (
        LocalCluster(n_workers=0, **ALONE) as empty,
        Client(empty) as client,
        worker_alone(empty.scheduler_address, PYTHONPATH=str(hollow.parent)),
    ):
        client.wait_for_workers(1, timeout=LONGEST_S)
        with pytest.raises(RunError, match="cannot work for openhcs-jupyter: ImportError: it is not here"):
            topology_of(empty.scheduler_address)
        message = fails(bench, DaskExecutor(empty.scheduler_address))
        assert len(client.nthreads()) == 1
    assert "it is not here" in message
    assert "Install openhcs-jupyter in the environment of all workers" in message


@pytest.mark.parametrize("hidden", ["repository", "plate"])
def test_a_worker_that_does_not_see_the_files(bench: Bench, hidden: str) -> None:
    # The worker has the folder covered, in a view of the file system that is its own.
    folder = bench.repository.uri if hidden == "repository" else str(bench.made.folder)
    with LocalCluster(n_workers=0, **ALONE) as empty, Client(empty) as client:
        covered = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', folder]
        with worker_alone(empty.scheduler_address, *covered):
            client.wait_for_workers(1, timeout=LONGEST_S)
            message = fails(bench, DaskExecutor(empty.scheduler_address))
    assert "The Dask worker tcp://127.0.0.1" in message
    assert "cannot see " in message
    assert folder in message
    assert "file system that all workers share" in message


def test_units_for_gpus_go_to_workers_that_have_one(bench: Bench, tmp_path: Path) -> None:
    log, machine = bench.folder / "log.txt", tmp_path / "topology.json"
    two = played(Simulation(), Simulation())
    save_topology(two, machine)

    def noted(stack: Any) -> Any:
        note(log, str(dask_worker()))
        return stack

    steps = [Step(functions.gaussian_blur, channel="DAPI"), Step(noted, channel="DAPI", save=True)]
    plan = compile(Pipeline(steps, "run"), bench.plate, two, device="gpu", workers=2)
    with LocalCluster(n_workers=1, threads_per_worker=1, **ALONE) as cluster, Client(cluster) as client:
        (without,) = client.run(os.getpid).values()
        executor = DaskExecutor(cluster.scheduler_address)
        assert executor.lacks(plan.devices) == f"no worker of Dask ({cluster.scheduler_address}) has a GPU"
        environment = {"OPENHCS_TOPOLOGY": str(machine), "CUDA_VISIBLE_DEVICES": "GPU-1"}
        with worker_alone(cluster.scheduler_address, options=("--resources", "GPU=1"), **environment):
            client.wait_for_workers(2, timeout=LONGEST_S)
            (with_gpu,) = set(client.run(os.getpid).values()) - {without}
            on_gpu = run(plan, executor).result()
    assert {int(line) for line in lines(log)} == {with_gpu}
    assert sum(event.bytes_up for event in journal(on_gpu) if isinstance(event, UnitDone)) > 0
    on_cpu = run(plan.on_cpus()).result()
    np.testing.assert_array_equal(on_gpu.image(well="A01"), on_cpu.image(well="A01"))


FILE = """
def doubled(stack):
    return stack * 2

pipeline_steps = [Step(doubled, channel="DAPI", save=True)]
"""


def test_workers_on_this_machine_from_the_command_line(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steps.py").write_text(FILE)
    command = ["run", str(tmp_path / "steps.py"), "--repository", bench.repository.uri]
    assert main([*command, "--scheduler", "local", "--workers", "2"]) == 0
    assert "on Dask (local)" in capsys.readouterr().out
    assert main([*command, "--scheduler", "cloud"]) == 2
    assert "--scheduler cloud: there is no such place" in capsys.readouterr().err


SBATCH = """#!/bin/bash
here="$(dirname "$0")"
cp "$1" "$here/job.sh"
setsid bash "$here/job.sh" >"$here/job.out" 2>&1 </dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
kill -KILL -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with Slurm's commands, which start and end a job on this machine, and configure a job."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    job = {"cores": 2, "processes": 1, "memory": "3GiB", "queue": "imaging", "walltime": "02:00:00", "interface": "lo"}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in job.items()}):
        yield folder


def test_jobs_of_slurm_are_asked_for_as_dask_is_configured(bench: Bench, slurm: Path) -> None:
    topology = topology_of("slurm")
    assert (topology.cores, topology.memory_bytes) == (2, 3 << 30)
    started: Run = bench.done(
        Step(negative, channel="DAPI"),
        executor=DaskExecutor("slurm", workers=2, shared=bench.repository.runs_folder),
    )
    assert "on Dask (slurm)" in started.summary()
    script = (slurm / "job.sh").read_text()
    for line in ("#SBATCH -p imaging", "#SBATCH -t 02:00:00", "#SBATCH --cpus-per-task=2", "#SBATCH --mem=3G"):
        assert line in script
    assert "distributed.cli.dask_worker tls://" in script
    assert f"--tls-key {bench.repository.runs_folder}" in script.replace("=", " ")


def test_slurm_without_configuration() -> None:
    with (
        dask.config.set({"jobqueue.slurm.cores": None}),
        pytest.raises(RunError, match=r"jobqueue\.slurm\.cores is missing"),
    ):
        topology_of("slurm")


def test_a_place_that_is_none() -> None:
    with pytest.raises(UsageError, match="there is no such place"):
        topology_of("cloud")
