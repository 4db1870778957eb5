"""Where Dask's workers come from: a scheduler that runs already, processes on this machine, or jobs of Slurm."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.engine.dask.calling import call_there
from openhcs_jupyter.errors import RunError, UsageError
from openhcs_jupyter.topology import Topology, discover

if TYPE_CHECKING:
    from distributed import Client

_ADDRESS = re.compile(r"^(tcp|tls|ws|wss|ucx|ucxx)://\S+$")
_CONNECT_S = 10.0
_INSTALL = "Install the extra: pip install 'openhcs-jupyter[dask]'"
_UNSEEN = "127.0.0.1:0"
"""Where Dask's web pages are, which it cannot be told to leave out."""
NAMES = ("local", "slurm")


def checked_scheduler(text: str) -> str:
    """Return `text` if it says where Dask is.

    Raises
    ------
    UsageError
        If it is neither an address nor ``local`` or ``slurm``.
    """
    if text in NAMES or _ADDRESS.match(text):
        return text
    raise UsageError(
        f"--scheduler {text}: there is no such place",
        "Name the address of a Dask scheduler, such as tcp://head-node:8786, or local, or slurm.",
    )


class Membership:
    """A connection to Dask, and the cluster if it is made for it; shared by sessions, and ended behind the last one.

    Parameters
    ----------
    scheduler
        An address, ``local`` or ``slurm``.
    workers
        Units that are to be computed at a time; a cluster that is made gets as many.
    gpus
        Whether the work needs GPUs.
    shared
        A folder that all machines of a cluster see.
    """

    def __init__(self, scheduler: str, workers: int, *, gpus: bool = False, shared: Path | None = None) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._gpus = gpus
        self._shared = shared
        self._lock = threading.Lock()
        self._users = 0
        self._joining: Future[Client] | None = None
        self._ended = ExitStack()
        self._begun = 0.0

    @property
    def age_s(self) -> float:
        """Seconds since it began to connect."""
        return time.monotonic() - self._begun

    def client(self, timeout: float | None = None) -> Client | None:
        """Connect if it is not connected; None if that takes longer than `timeout` seconds.

        Raises
        ------
        RunError
            If Dask is not installed, does not answer, or its configuration does not suffice.
        """
        with self._lock:
            if self._joining is None:
                self._begun = time.monotonic()
                joining = self._joining = Future()
                threading.Thread(target=self._join, args=(joining,), name="openhcs-dask", daemon=True).start()
            joining = self._joining
        try:
            return joining.result(timeout)
        except FutureTimeout:
            if joining.done():
                raise
            return None

    def enter(self) -> Client:
        """Begin to use the connection."""
        with self._lock:
            self._users += 1
        try:
            client = self.client()
        except BaseException:
            self.leave()
            raise
        assert client is not None
        return client

    def leave(self) -> None:
        """End the use of the connection."""
        with self._lock:
            self._users -= 1
        self.close()

    def close(self) -> None:
        """End the connection, and the cluster that was made for it, unless it is used."""
        with self._lock:
            joining, ended = self._joining, self._ended
            if self._users or joining is None:
                return
            self._joining, self._ended = None, ExitStack()
        wait([joining])
        ended.close()

    def _join(self, joining: Future[Client]) -> None:
        try:
            joining.set_result(self._connect())
        except BaseException as error:  # noqa: BLE001 - is raised where it is waited for
            joining.set_exception(error)

    def _connect(self) -> Client:
        try:
            from distributed import Client
        except ImportError as error:
            raise RunError(f"Dask is not installed: {error}.", _INSTALL) from error
        where: Any = self._scheduler
        if self._scheduler == "local":
            where = self._ended.enter_context(local_cluster(self._workers, gpus=self._gpus))
        elif self._scheduler == "slurm":
            where = self._ended.enter_context(slurm_cluster(self._workers, self._shared))
        try:
            return self._ended.enter_context(Client(where, timeout=_CONNECT_S, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise RunError(
                f"The Dask scheduler at {self._scheduler} does not answer: {error}",
                "Start it with dask scheduler, or name its address as it says it.",
            ) from error


def local_cluster(workers: int, *, gpus: bool) -> Any:
    """Start Dask's workers on this machine; one for each GPU where `gpus` are needed.

    No other user of the machine can join: scheduler and workers know each other by a certificate of this cluster.
    """
    from distributed import LocalCluster
    from distributed.security import Security

    common: dict[str, Any] = {
        "threads_per_worker": 1,
        "dashboard_address": _UNSEEN,
        "worker_dashboard_address": _UNSEEN,
        "host": "127.0.0.1",
        "security": Security.temporary(),
        "protocol": "tls://",
    }
    if not gpus:
        return LocalCluster(n_workers=workers, processes=True, **common)
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise RunError("Steps on GPUs need dask-cuda.", "Install it: pip install dask-cuda") from error
    return LocalCUDACluster(resources={"GPU": 1}, **common)


def slurm_cluster(workers: int, shared: Path | None) -> Any:
    """Ask Slurm for jobs with as many cores as there are `workers`; what a job is stands in Dask's configuration.

    Raises
    ------
    RunError
        If dask-jobqueue is not installed, or ``jobqueue.slurm`` is not configured.
    """
    cores, _ = _slurm_job()
    import dask
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        security=True,
        protocol="tls://",
        shared_temp_directory=None if shared is None else str(shared),
        scheduler_options={"dashboard": False, "dashboard_address": _UNSEEN},
        worker_extra_args=[
            *dask.config.get("jobqueue.slurm.worker-extra-args"),
            "--no-dashboard",
            "--dashboard-address",
            _UNSEEN,
        ],
    )
    cluster.scale(jobs=-(-workers // cores))
    return cluster


def topology_of(scheduler: str) -> Topology:
    """Say on what machine a plan for this scheduler runs: all of its workers as if they were one.

    Raises
    ------
    RunError
        If the scheduler does not answer, or has no workers.
    UsageError
        If `scheduler` is neither an address nor ``local`` or ``slurm``.
    """
    if checked_scheduler(scheduler) == "local":
        return discover()
    if scheduler == "slurm":
        cores, memory = _slurm_job()
        return Topology(host="slurm", cores=cores, memory_bytes=memory, memory_free_bytes=memory)
    membership = Membership(scheduler, 0)
    client = membership.enter()
    try:
        threads: dict[str, int] = client.nthreads()
        if not threads:
            raise RunError(
                f"The Dask scheduler at {scheduler} has no workers.",
                f"Start some: dask worker {scheduler} --nthreads 4",
            )
        machines = _machines(client)
    finally:
        membership.leave()
    hosts = {machine.host: machine for machine in machines.values()}
    return Topology(
        host=f"Dask at {scheduler}",
        cores=sum(threads.values()),
        memory_bytes=sum(machine.memory_bytes for machine in hosts.values()),
        memory_free_bytes=sum(machine.memory_free_bytes for machine in hosts.values()),
        gpus=tuple({gpu.uuid: gpu for machine in hosts.values() for gpu in machine.gpus}.values()),
    )


def _machines(client: Client) -> dict[str, Topology]:
    """Ask every Dask worker what it may use of its machine.

    Raises
    ------
    RunError
        If a worker cannot say it; names it.
    """
    answers: dict[str, Any] = client.run(call_there, discover.__module__, "discover", on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, BaseException):
            raise RunError(
                f"The Dask worker {address} cannot work for openhcs-jupyter: {type(answer).__name__}: {answer}",
                "Install openhcs-jupyter in the environment of all workers.",
            ) from answer
    return answers


def _slurm_job() -> tuple[int, int]:
    """Return cores and bytes of memory of one job."""
    try:
        import dask
        import dask_jobqueue  # noqa: F401 - brings its defaults
        from dask.utils import parse_bytes
    except ImportError as error:
        raise RunError(f"dask-jobqueue is not installed: {error}.", _INSTALL) from error
    found = {name: dask.config.get(f"jobqueue.slurm.{name}", None) for name in ("cores", "memory")}
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise RunError(
            f"Dask's configuration does not say what a Slurm job is: jobqueue.slurm.{missing[0]} is missing.",
            "Write cores, memory, queue and walltime into ~/.config/dask/jobqueue.yaml; see the page on Dask.",
        )
    return int(found["cores"]), int(parse_bytes(found["memory"]))
