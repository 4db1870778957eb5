"""The executor that hands batches of units to Dask."""

from __future__ import annotations

import itertools
import pickle
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.engine.dask.calling import call_there
from openhcs_jupyter.engine.dask.cluster import Membership, checked_scheduler
from openhcs_jupyter.engine.dask.seat import CPU, PROGRAM, Ticket, digest_of, version
from openhcs_jupyter.engine.devices.opening import missing
from openhcs_jupyter.engine.executor import Executor, Session
from openhcs_jupyter.engine.program import Failure, Outcome, Program, Work, pack
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.repository import connect
from openhcs_jupyter.topology import Device

if TYPE_CHECKING:
    from distributed import Client, Future

_BATCH_S = 0.5
"""Long beside Dask's milliseconds, short beside a user's patience."""
_LARGEST = 64
_LOOK_S = 1.0
_LEAVE_S = 5.0
_TRIES = 3
_SEAT = "openhcs_jupyter.engine.dask.seat"
_GPU = "GPU"
"""The name under which Dask's workers say that they have a GPU."""


class DaskExecutor(Executor):
    """Hands units to dask.distributed.

    Parameters
    ----------
    scheduler
        Address of a Dask scheduler, such as ``tcp://head-node:8786``; or ``local``: workers on this machine, or
        ``slurm``: jobs as Dask's configuration says. The latter two last as long as the run.
    workers
        Units that ``local`` or ``slurm`` shall compute at a time.
    gpus
        Whether units need GPUs.
    shared
        A folder that all machines of a cluster see; Slurm's jobs find their certificate there.
    patience_s
        A run that has no Dask worker for so long has failed, and can be resumed. Jobs that wait in Slurm's queue
        before the first of them begins are waited for in any case.
    batch_s
        How long a batch of units is meant to take.
    """

    def __init__(
        self,
        scheduler: str,
        *,
        workers: int = 1,
        gpus: bool = False,
        shared: Path | None = None,
        patience_s: float = 60.0,
        batch_s: float = _BATCH_S,
    ) -> None:
        self.scheduler = scheduler
        self.patience_s = patience_s
        self.batch_s = batch_s
        self._membership = Membership(scheduler, workers, gpus=gpus, shared=shared)

    @property
    def where(self) -> str:
        """Where units are done, as the summary of a run says it."""
        return f"on Dask ({self.scheduler})"

    def prepare(self, timeout: float) -> bool:
        """Connect, and wait for the first worker."""
        client = self._membership.client(timeout)
        if client is None:
            return False
        if client.nthreads():
            return True
        if self.scheduler != "slurm" and self._membership.age_s > self.patience_s:
            raise self.deserted()
        time.sleep(timeout)
        return False

    def lacks(self, devices: Sequence[Device]) -> str | None:
        """Look whether workers have GPUs; jobs of Slurm are believed to."""
        if not devices or self.scheduler == "slurm":
            return None
        if self.scheduler == "local":
            lack = missing(devices)
            return lack if lack or find_spec("dask_cuda") else "dask-cuda is not installed: pip install dask-cuda"
        client = self._membership.enter()
        try:
            return None if _gpus(_workers(client)) else f"no worker of Dask ({self.scheduler}) has a GPU"
        finally:
            self._membership.leave()

    def open(self, program: Program, *, workers: int, unit_timeout_s: float) -> Session:
        """Begin a session on the cluster's workers."""
        return _DaskSession(self, self._membership, program, workers, unit_timeout_s)

    def close(self) -> None:
        """Leave the cluster, unless a session uses it."""
        self._membership.close()

    def deserted(self) -> RunError:
        """Say that there are no workers."""
        return RunError(
            f"Dask ({self.scheduler}) has had no workers for {self.patience_s:g} s.",
            "Start some, then go on with --resume.",
        )


def executor_for(plan: ExecutionPlan, scheduler: str) -> DaskExecutor:
    """Return the executor for a plan.

    Parameters
    ----------
    plan
        Compiled for `openhcs_jupyter.engine.dask.topology_of` the same scheduler.
    scheduler
        An address, ``local`` or ``slurm``.

    Raises
    ------
    UsageError
        If `scheduler` is none of these.
    """
    gpus = any(unit.device != CPU for unit in plan.units)
    with connect(plan.repository) as repository:
        shared = repository.runs_folder
    shared.mkdir(parents=True, exist_ok=True)
    workers = plan.memory.workers
    return DaskExecutor(checked_scheduler(scheduler), workers=workers, gpus=gpus, shared=shared)


def _workers(client: Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def _gpus(workers: Sequence[dict[str, Any]]) -> int:
    return sum(worker["resources"].get(_GPU, 0) for worker in workers)


class _Batch:
    """Units that were handed to Dask together."""

    def __init__(self, number: int, works: Sequence[Work]) -> None:
        self.number = number
        self.works = tuple(works)
        self.running: tuple[int, ...] = ()


class _DaskSession(Session):
    def __init__(
        self, executor: DaskExecutor, membership: Membership, program: Program, workers: int, unit_timeout_s: float
    ) -> None:
        self._executor = executor
        self._membership = membership
        self._workers = workers
        self._numbers = itertools.count()
        self._tries: dict[int, int] = {}
        self._waiting: deque[Work] = deque()
        self._batches: dict[Future, _Batch] = {}
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._sizes = _Sizes(executor.batch_s)
        self._seen = time.monotonic()
        self._closed = False
        packed = pickle.dumps(pack(program), protocol=5)
        self._program = program.run_folder / PROGRAM
        self._program.write_bytes(packed)
        self._ticket = Ticket(
            run_folder=str(program.run_folder),
            digest=digest_of(packed),
            must_see=_folders(program),
            unit_timeout_s=unit_timeout_s,
            topic=f"openhcs-{program.run_folder.name}-{secrets.token_hex(4)}",
            version=version(),
        )
        self._client = membership.enter()
        try:
            self._client.subscribe_topic(self._ticket.topic, self._hear)
            self._look()
        except BaseException:
            membership.leave()
            raise

    @property
    def room(self) -> int:
        # As many again as are in flight wait here, so that it can be seen when a run comes to its end.
        held = len(self._waiting) + sum(len(batch.works) for batch in self._batches.values())
        return 2 * self._most * self._sizes.latest - held

    @property
    def running(self) -> Sequence[int]:
        return [unit for batch in list(self._batches.values()) for unit in batch.running]

    def submit(self, work: Work) -> None:
        self._waiting.append(work)

    def wait(self, timeout: float) -> list[Outcome]:
        self._send()
        outcomes: list[Outcome] = []
        with suppress(queue.Empty):
            outcomes += self._take(self._ended.get(timeout=timeout))
            while True:
                outcomes += self._take(self._ended.get_nowait())
        if time.monotonic() - self._looked > _LOOK_S:
            self._look()
        return outcomes

    def cancel(self) -> None:
        self._waiting.clear()
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        futures = list(self._batches)
        self._batches.clear()
        # A cluster that does not answer any more must not hold the run.
        leaving = threading.Thread(target=self._leave, args=(futures,), daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)
        self._program.unlink(missing_ok=True)
        self._membership.leave()

    def _leave(self, futures: list[Future]) -> None:
        with suppress(Exception):
            self._client.cancel(futures)
            self._client.run(call_there, _SEAT, "leave", self._ticket.run_folder, on_error="ignore")
            self._client.unsubscribe_topic(self._ticket.topic)

    @property
    def _most(self) -> int:
        """Batches in flight: two for each place, so that the next one is there when one ends."""
        return self._workers if self._workers < self._places else 2 * self._places

    def _look(self) -> None:
        """See how many units the cluster can compute at a time."""
        self._looked = time.monotonic()
        try:
            workers = _workers(self._client)
        except (OSError, RuntimeError, TypeError) as error:
            raise RunError(
                f"The connection to Dask ({self._executor.scheduler}) is lost: {error}",
                "When it is there again, go on with --resume.",
            ) from error
        self._places = sum(worker["nthreads"] for worker in workers)
        self._gpus = _gpus(workers)
        if self._places:
            self._seen = self._looked
        elif self._looked - self._seen > self._executor.patience_s:
            raise self._executor.deserted()

    def _send(self) -> None:
        while self._waiting and len(self._batches) < self._most:
            first = self._waiting[0].unit
            # Batches become smaller when little is left, so that all places end together.
            most = min(self._sizes.of(first.stage), -(-len(self._waiting) // max(1, self._most)))
            works = [self._waiting.popleft()]
            while self._waiting and len(works) < most and _alike(self._waiting[0].unit, first):
                works.append(self._waiting.popleft())
            self._hand_over(works)

    def _hand_over(self, works: Sequence[Work]) -> None:
        number = next(self._numbers)
        needs = {_GPU: 1} if works[0].unit.device != CPU else None
        if needs and not self._gpus:
            raise RunError(
                f"Steps need a GPU, and no worker of Dask ({self._executor.scheduler}) has one.",
                "Start some with dask cuda worker ADDRESS --resources GPU=1, or run the cell with --device cpu.",
            )
        future = self._client.submit(
            call_there,
            _SEAT,
            "do_batch",
            number,
            pickle.dumps((self._ticket, tuple(works)), protocol=5),
            key=f"{self._ticket.topic}-{number}",
            resources=needs,
            pure=False,
        )
        self._batches[future] = _Batch(number, works)
        future.add_done_callback(self._ended.put)

    def _take(self, future: Future) -> list[Outcome]:
        batch = self._batches.pop(future, None)
        if batch is None:
            return []
        first = batch.works[0].unit
        if future.status != "finished":
            return self._lost(batch, future)
        outcomes: list[Outcome] = future.result()
        self._sizes.learn(first.stage, sum(outcome.compute_s for outcome in outcomes), len(outcomes))
        outcomes = [outcome for outcome in outcomes if not self._tries_again(outcome)]
        told = {outcome.unit for outcome in outcomes}
        if not any(outcome.failure is not None and outcome.failure.whole_run for outcome in outcomes):
            self._waiting.extendleft(work for work in reversed(batch.works) if work.unit.id not in told)
        return outcomes

    def _tries_again(self, outcome: Outcome) -> bool:
        """Tell whether a unit is to be done elsewhere, as the GPU on which it was done is lost."""
        if outcome.failure is None or not outcome.failure.device_lost:
            return False
        self._tries[outcome.unit] = self._tries.get(outcome.unit, 0) + 1
        return self._tries[outcome.unit] < _TRIES

    def _lost(self, batch: _Batch, future: Future) -> list[Outcome]:
        from distributed import KilledWorker

        error = future.exception() if future.status == "error" else None
        unit = batch.works[0].unit.id
        if not isinstance(error, KilledWorker):
            why = f"{type(error).__name__}: {error}" if error is not None else "the scheduler has ended"
            if isinstance(error, ImportError):
                why += ". Install openhcs-jupyter in the environment of all workers."
            message = f"Dask ({self._executor.scheduler}) could not do a batch of units: {why}"
            return [Outcome(unit=unit, failure=Failure(message=message, whole_run=True))]
        if len(batch.works) > 1:  # one of them may be to blame
            for work in batch.works:
                self._hand_over([work])
            return []
        message = f"the Dask worker that did it was lost, again and again; the last was {error.last_worker.address}"
        return [Outcome(unit=unit, failure=Failure(message=message))]

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        _, told = event
        for batch in list(self._batches.values()):
            if batch.number == told["batch"]:
                batch.running = tuple(told["running"])


class _Sizes:
    """How many units make a batch, by what units have taken."""

    def __init__(self, batch_s: float) -> None:
        self._batch_s = batch_s
        self._by_stage: dict[int, int] = {}
        self.latest = 1

    def of(self, stage: int) -> int:
        """Return the size of a stage's batches: one until it is known how long a unit takes."""
        return self._by_stage.get(stage, 1)

    def learn(self, stage: int, seconds: float, units: int) -> None:
        """Take in how long some units took."""
        if units:
            size = int(self._batch_s / max(seconds / units, 1e-3))
            self._by_stage[stage] = self.latest = max(1, min(_LARGEST, size))


def _alike(unit: Unit, other: Unit) -> bool:
    return unit.stage == other.stage and (unit.device == CPU) == (other.device == CPU)


def _folders(program: Program) -> tuple[str, ...]:
    """List what every worker must see: the notebook's folder, and something within the repository and the plate.

    A share that is not mounted may well leave its empty folder.
    """
    within = [Path(program.repository)]
    with connect(program.repository) as repository:
        within += [Path(plate.source) for plate in repository.plates() if plate.id == program.record.plate_id]
    found = [next(iter(sorted(folder.iterdir())), folder) for folder in within if folder.is_dir()]
    return (program.working_folder, *map(str, found))
