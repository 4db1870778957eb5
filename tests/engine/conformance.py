"""What any executor must do: a suite that each implementation runs.

Subclass `ExecutorConformance` and give it a fixture `executor`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter import Labels, Step, Table, measure, table
from openhcs_jupyter.engine import Executor, Run, Session, run
from openhcs_jupyter.engine.program import Outcome, Program, Work
from tests.engine.bench import LONGEST_S, Bench, contents, lines, until
from tests.engine.functions import negative, note

AGAIN = {"force": True}
"""Take no results of earlier runs."""
NOTEBOOK = """
import numpy as np
OFFSET = 3

def helper(stack):
    return stack + OFFSET

def shifted(stack):
    return helper(stack)

def make(factor):
    def scaled(stack):
        return stack * factor
    return scaled

class Scale:
    def __init__(self, by):
        self.by = by
    def times(self, stack):
        return stack * self.by

scaled = make(2)
twice = lambda stack: np.concatenate([stack, stack])
method = Scale(5).times
"""


class Watched(Executor):
    """An executor that notes what goes in and comes out of another one."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.submitted: list[int] = []
        self.ended: list[int] = []
        self.most_held = 0
        self.room: int | None = None

    def open(self, program: Program, *, workers: int, unit_timeout_s: float) -> Session:
        return _WatchedSession(self, self._executor.open(program, workers=workers, unit_timeout_s=unit_timeout_s))


class _WatchedSession(Session):
    def __init__(self, log: Watched, session: Session) -> None:
        self._log = log
        self._session = session

    @property
    def room(self) -> int:
        self._log.room = self._session.room
        return self._log.room

    @property
    def running(self) -> Sequence[int]:
        return self._session.running

    def submit(self, work: Work) -> None:
        self._log.submitted.append(work.unit.id)
        self._log.most_held = max(self._log.most_held, len(self._log.submitted) - len(self._log.ended))
        self._session.submit(work)

    def wait(self, timeout: float) -> list[Outcome]:
        outcomes = self._session.wait(timeout)
        self._log.ended += [outcome.unit for outcome in outcomes]
        return outcomes

    def cancel(self) -> None:
        self._session.cancel()

    def close(self) -> None:
        self._session.close()


def everything() -> list[Step]:
    """Steps of which each later one needs the results of earlier ones, up to the plate."""

    def thresholded(stack: Any) -> Any:
        return stack, (stack > 2000).astype(np.uint16)

    @measure()
    def count(stack: Any, labels: Any) -> dict[str, int]:
        return {"bright": int((labels > 0).sum()), "sum": int(stack.sum(dtype=np.int64))}

    def joined(counts: Any) -> Any:
        return counts.groupby("well", as_index=False)[["bright", "sum"]].sum()

    return [
        Step(thresholded, channel="DAPI", outputs=Labels("bright"), save=True),
        Step(count, channel="DAPI", inputs={"labels": "bright"}, outputs=Table("counts")),
        Step(joined, inputs={"counts": "counts"}, outputs=Table("wells")),
    ]


def fails_in(bench: Bench, fail: Callable[[Path], None], executor: Executor, **run_options: Any) -> tuple[Run, int]:
    """Run a function that fails in B02 field 1 alone, and tell how often it was called there."""
    log = bench.folder / "calls.txt"

    def function(stack: Any, context: Any) -> Any:
        if (context.well, context.field) == ("B02", 1):
            note(log, "called")
            fail(log)
        return stack

    started = bench.run(Step(function, channel="DAPI"), executor=executor, run_options=run_options)
    return started, len(lines(log))


def only_b02_failed(started: Run) -> str:
    """Check that one field failed, that the others are done, and return why it failed."""
    assert started.status == "failed"
    (failure,) = started.failures
    assert (failure.well, failure.field, failure.step) == ("B02", 1, "function")
    assert started.progress.stages[0].done == 3
    assert started.image(well="B02", field=2).shape[-2:] == (24, 32)
    return failure.message


class ExecutorConformance:
    """The suite."""

    most_held = 10
    """Units that it may hold for two workers, when it knows how long they take."""

    def test_results_do_not_depend_on_the_number_of_workers(self, bench: Bench, executor: Executor) -> None:
        alone = contents(bench.done(*everything(), executor=executor, workers=1))
        assert contents(bench.done(*everything(), executor=executor, workers=3, run_options=AGAIN)) == alone
        assert len(alone) == 4 * 3 + 1

    def test_results_do_not_depend_on_the_order_in_which_units_end(self, bench: Bench, executor: Executor) -> None:
        gates = bench.folder / "gates"
        gates.mkdir()

        def gated(stack: Any, context: Any) -> Any:
            while not (gates / f"{context.well}{context.field}").exists():
                time.sleep(0.002)
            return stack

        pictures = []
        for seed in (1, 2):
            order = [f"{well}{field}" for well, field in bench.places()]
            random.Random(seed).shuffle(order)
            started = bench.start(
                Step(gated, channel="DAPI"), *everything(), executor=executor, workers=4, run_options=AGAIN
            )
            for count, name in enumerate(order, 1):
                (gates / name).touch()
                until(
                    lambda started=started, count=count: started.progress.stages[0].done >= count,
                    f"{name} to end with {count} done",
                )
            assert started.wait(LONGEST_S)
            pictures.append(contents(started.result()))
            for name in order:
                (gates / name).unlink()
        assert pictures[0] == pictures[1]

    def test_every_unit_has_one_outcome(self, make_bench: Callable[..., Bench], executor: Executor) -> None:
        bench = make_bench(fields=10, z=1, size=(8, 8))

        def odd(stack: Any, context: Any) -> Any:
            if context.field % 4 == 1:
                raise ValueError("an odd field")
            if (context.well, context.field) == ("A01", 4):
                os.abort()
            return stack

        watched = Watched(executor)
        started = bench.run(Step(odd, channel="DAPI"), executor=watched)
        assert Counter(watched.submitted) == Counter(range(20))
        assert Counter(watched.ended) == Counter(range(20))
        assert len(started.failures) == 7

    def test_units_in_flight_are_bounded(self, make_bench: Callable[..., Bench], executor: Executor) -> None:
        bench = make_bench(fields=30, z=1, size=(8, 8))
        gate = bench.folder / "gate"

        def gated(stack: Any) -> Any:
            while not gate.exists():
                time.sleep(0.002)
            return stack

        watched = Watched(executor)
        started = bench.start(Step(gated, channel="DAPI"), executor=watched, workers=2)
        until(lambda: watched.room == 0, "the executor to be full")
        assert started.progress.stages[0].done == 0
        assert 2 <= watched.most_held <= 10
        gate.touch()
        assert started.wait(LONGEST_S)
        assert started.status == "done"
        assert watched.most_held <= self.most_held

    def test_units_that_are_computed_are_shown_as_running(self, bench: Bench, executor: Executor) -> None:
        gate = bench.folder / "gate"

        def gated(stack: Any) -> Any:
            while not gate.exists():
                time.sleep(0.002)
            return stack

        started = bench.start(Step(gated, channel="DAPI"), executor=executor, workers=2)
        until(lambda: started.progress.stages[0].running == 2, "two units to run")
        gate.touch()
        assert started.wait(LONGEST_S)
        assert started.progress.stages[0].running == 0

    def test_a_function_that_raises_costs_its_unit_and_is_not_called_again(
        self, bench: Bench, executor: Executor
    ) -> None:
        def fail(log: Path) -> None:
            raise ZeroDivisionError("nothing to divide by")

        started, calls = fails_in(bench, fail, executor)
        assert "ZeroDivisionError: nothing to divide by" in only_b02_failed(started)
        assert "in fail" in started.failures[0].traceback
        assert calls == 1

    @pytest.mark.parametrize(
        ("name", "told"),
        [("SIGSEGV", "SIGSEGV"), ("SIGKILL", "SIGKILL"), ("SIGABRT", "SIGABRT"), ("exit", "status 7")],
    )
    def test_a_process_that_dies_costs_its_unit(self, bench: Bench, executor: Executor, name: str, told: str) -> None:
        def fail(log: Path) -> None:
            if name == "exit":
                os._exit(7)
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.Signals[name])

        started, calls = fails_in(bench, fail, executor)
        assert told in only_b02_failed(started)
        assert 1 <= calls <= 3

    def test_a_process_that_dies_once_costs_nothing(self, bench: Bench, executor: Executor) -> None:
        def fail(log: Path) -> None:
            if len(log.read_text().splitlines()) == 1:
                os._exit(1)

        started, calls = fails_in(bench, fail, executor)
        assert started.status == "done"
        assert calls == 2

    def test_a_function_that_calls_sys_exit_costs_its_unit(self, bench: Bench, executor: Executor) -> None:
        def fail(log: Path) -> None:
            sys.exit("enough")

        started, _ = fails_in(bench, fail, executor)
        only_b02_failed(started)

    def test_a_function_that_never_returns_is_stopped(self, bench: Bench, executor: Executor) -> None:
        def fail(log: Path) -> None:
            threading.Event().wait()

        started, calls = fails_in(bench, fail, executor, unit_timeout_s=0.5)
        assert "longer than 0.5 s" in only_b02_failed(started)
        assert calls == 1

    def test_cancelling_stops_within_half_a_second(
        self, make_bench: Callable[..., Bench], executor: Executor, tmp_path: Path
    ) -> None:
        bench = make_bench(fields=8, z=1, size=(8, 8))
        log = tmp_path / "pids.txt"

        def stubborn(stack: Any, context: Any) -> Any:
            if context.field >= 4:  # so many that both workers meet one, whichever units they hold
                note(log, str(os.getpid()))
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    pass
            return stack

        started = bench.start(Step(stubborn, channel="DAPI"), executor=executor, workers=2)
        until(lambda: len(lines(log)) == 2, "both workers to be busy")
        begin = time.monotonic()
        started.cancel()
        assert started.wait(LONGEST_S)
        # The promise is half a second; a machine that does other tests beside this one may add to it.
        assert time.monotonic() - begin < 1.5
        assert started.status == "cancelled"
        until(
            lambda: not any(Path(f"/proc/{pid}").exists() and alive(int(pid)) for pid in lines(log)),
            "the workers to be gone",
            1.5,
        )
        assert not list((started.folder / "units").glob(".*"))

    def test_cancelling_before_anything_has_begun(self, bench: Bench, executor: Executor) -> None:
        started = bench.start(Step(negative, channel="DAPI"), executor=executor)
        started.cancel()
        assert started.wait(LONGEST_S)
        assert started.status in ("cancelled", "done")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("shifted", lambda stack: stack + 3),
            ("scaled", lambda stack: stack * 2),
            ("twice", lambda stack: np.concatenate([stack, stack])),
            ("method", lambda stack: stack * 5),
        ],
    )
    def test_functions_of_a_notebook(
        self, bench: Bench, executor: Executor, name: str, expected: Callable[[Any], Any]
    ) -> None:
        cell: dict[str, Any] = {"__name__": "__main__"}
        exec(NOTEBOOK, cell)
        started = bench.done(Step(cell[name], channel="GFP", save=True, name="made"), executor=executor)
        for well, field in bench.places():
            np.testing.assert_array_equal(
                started.image("made", well=well, field=field)[0, 0], expected(bench.pixels(well, field, 1))
            )

    def test_functions_of_a_module_that_only_the_notebook_finds(
        self, bench: Bench, executor: Executor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = bench.folder / "my modules"
        place.mkdir()
        (place / "my_helpers_of_plate.py").write_text("def up(stack):\n    return stack + 1\n")
        (place / "my_steps_of_plate.py").write_text(
            "from my_helpers_of_plate import up\n\ndef higher(stack):\n    return up(stack)\n"
        )
        monkeypatch.syspath_prepend(str(place))
        for module in ("my_steps_of_plate", "my_helpers_of_plate"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        import my_steps_of_plate

        started = bench.done(Step(my_steps_of_plate.higher, channel="DAPI"), executor=executor)
        np.testing.assert_array_equal(started.image(well="A01")[0, 0], bench.pixels("A01", 1, 0) + 1)

    def test_a_module_that_changed_is_taken_as_it_is_now(
        self, bench: Bench, executor: Executor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import importlib

        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        place = bench.folder / "modules"
        place.mkdir()
        file = place / "my_changing_step.py"
        file.write_text("def higher(stack):\n    return stack + 1\n")
        monkeypatch.syspath_prepend(str(place))
        monkeypatch.delitem(sys.modules, "my_changing_step", raising=False)
        import my_changing_step

        bench.done(Step(my_changing_step.higher, channel="DAPI"), executor=executor)
        file.write_text("def higher(stack):\n    return stack + 10\n")
        importlib.reload(my_changing_step)
        started = bench.done(Step(my_changing_step.higher, channel="DAPI"), executor=executor)
        np.testing.assert_array_equal(started.image(well="A01")[0, 0], bench.pixels("A01", 1, 0) + 10)

    def test_relative_paths_are_those_of_the_notebook(
        self, bench: Bench, executor: Executor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(bench.folder)
        Path("offset.txt").write_text("7")

        def offset(stack: Any) -> Any:
            return stack + int(Path("offset.txt").read_text())

        started = bench.done(Step(offset, channel="DAPI"), executor=executor)
        np.testing.assert_array_equal(started.image(well="B02")[0, 0], bench.pixels("B02", 1, 0) + 7)

    def test_a_module_that_workers_cannot_import_fails_the_run_and_does_not_hang(
        self, bench: Bench, executor: Executor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = bench.folder / "my_fleeting_module.py"
        file.write_text("def same(stack):\n    return stack\n")
        monkeypatch.syspath_prepend(str(bench.folder))
        monkeypatch.delitem(sys.modules, "my_fleeting_module", raising=False)
        import my_fleeting_module

        plan = bench.compile(Step(my_fleeting_module.same, channel="DAPI"))
        file.unlink()
        shutil.rmtree(bench.folder / "__pycache__", ignore_errors=True)
        started = run(plan, executor)
        assert started.wait(LONGEST_S)
        assert started.status == "failed"
        assert "No module named 'my_fleeting_module'" in started.message

    def test_two_runs_at_once_do_not_meet(self, bench: Bench, executor: Executor) -> None:
        first = bench.start(*everything(), executor=executor, run_options=AGAIN)
        second = bench.start(*everything(), executor=executor, run_options=AGAIN)
        assert first.wait(LONGEST_S)
        assert second.wait(LONGEST_S)
        assert contents(first.result()) == contents(second.result())

    def test_errors_of_tables_name_their_step(self, bench: Bench, executor: Executor) -> None:
        @table(over="well")
        def broken(counts: Any) -> Any:
            raise KeyError(counts["well"].iloc[0])

        started = bench.run(
            *everything(), Step(broken, inputs={"counts": "counts"}, outputs=Table("broken")), executor=executor
        )
        assert sorted((f.well, f.step) for f in started.failures) == [("A01", "broken"), ("B02", "broken")]
        assert len(started.table("wells")) == 2


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
