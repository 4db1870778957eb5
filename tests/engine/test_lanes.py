"""A session of several lanes does what any session does; here it has one of CPUs and two of played GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from openhcs_jupyter import Step
from openhcs_jupyter.engine import Executor, LocalExecutor, Session
from openhcs_jupyter.engine.program import Program
from openhcs_jupyter.topology import Device, Simulation
from tests.engine.bench import LONGEST_S, until
from tests.engine.conformance import ExecutorConformance, Watched


class Laned(LocalExecutor):
    """Opens sessions with GPUs, which the units of these tests do not need."""

    def open(self, program: Program, *, workers: int, unit_timeout_s: float) -> Session:
        devices: Sequence[Device] = [
            Device(
                id=f"gpu:{i}",
                uuid=f"GPU-{i}",
                name="Played",
                memory_bytes=1,
                memory_free_bytes=1,
                simulated=Simulation(),
            )
            for i in range(2)
        ]
        laned = msgspec.structs.replace(program, devices=tuple(devices))
        return super().open(laned, workers=workers, unit_timeout_s=unit_timeout_s)


class TestLanes(ExecutorConformance):
    @pytest.fixture
    def executor(self) -> Executor:
        return Laned()

    def test_units_in_flight_are_bounded(self, make_bench: Any, executor: Executor) -> None:
        """As many as are wanted for a busy lane's units not to keep others from one that has nothing to do."""
        bench = make_bench(wells=("A01", "A02", "A03", "A04"), fields=60, z=1, size=(8, 8))
        gate = bench.folder / "gate"

        def gated(stack: Any) -> Any:
            while not gate.exists():
                time.sleep(0.002)
            return stack

        watched = Watched(executor)
        started = bench.start(Step(gated, channel="DAPI"), executor=watched, workers=2)
        until(lambda: watched.room == 0, "the executor to be full")
        gate.touch()
        assert started.wait(LONGEST_S)
        assert started.status == "done"
        assert watched.most_held == 3 * 64
