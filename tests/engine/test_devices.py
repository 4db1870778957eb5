"""Runs on simulated GPUs: transfers, fallbacks, a device that runs out of memory, one that is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from openhcs_jupyter import functions
from openhcs_jupyter.compiler import ExecutionPlan, compile
from openhcs_jupyter.engine import Run, run
from openhcs_jupyter.engine.devices.base import DeviceBrokenError
from openhcs_jupyter.errors import CompileError
from openhcs_jupyter.events import Notice, UnitDone
from openhcs_jupyter.pipeline import ImageOutput, Labels, Pipeline, Step, Table, image, kernel_for, measure
from openhcs_jupyter.topology import Gpu, Simulation, Topology, load_topology
from tests.engine.bench import LONGEST_S, Bench, contents, ended, journal, lines, until
from tests.engine.functions import Mean, note

MIB = 1 << 20
SAMPLES = Path(__file__).parents[1] / "topology" / "samples"
PLANE = 24 * 32 * 2


def played(*gpus: Simulation, free: int = 64 * MIB, cores: tuple[int, ...] = ()) -> Topology:
    return Topology(
        host="played",
        cores=2,
        memory_bytes=1 << 33,
        memory_free_bytes=1 << 33,
        gpus=tuple(
            Gpu(
                uuid=f"GPU-{i}",
                name="Played GPU",
                memory_bytes=free,
                memory_free_bytes=free,
                cores=cores,
                simulated=simulated,
            )
            for i, simulated in enumerate(gpus)
        ),
    )


def plan_of(bench: Bench, *steps: Step, topology: Topology, device: str = "gpu", **how: Any) -> ExecutionPlan:
    return compile(Pipeline(steps, "run"), bench.plate, topology, workers=1, device=device, **how)


def done(plan: ExecutionPlan, **how: Any) -> Run:
    started = run(plan, **how)
    assert started.wait(LONGEST_S), "the run does not end"
    return started


def steps() -> list[Step]:
    return [
        Step(functions.percentile_normalize),
        Step({"DAPI": [functions.gaussian_blur, (functions.top_hat, {"radius": 4, "downsample": 1})]}, save=True),
        Step(functions.max_projection, save=True, name="flat"),
        Step(functions.segment_nuclei, {"min_contrast": 0}, channel="DAPI", outputs=Labels("nuclei")),
        Step(functions.measure_objects, inputs={"labels": "nuclei"}, outputs=Table("objects")),
    ]


def same(one: Run, other: Run, name: str) -> None:
    for well in one.plan.plate.wells:
        for field in well.fields:
            a, b = (r.image(name, well=well.name, field=field.number).astype(np.int64) for r in (one, other))
            assert np.abs(a - b).max() <= 1


def test_a_run_on_gpus_gives_what_one_on_cpus_gives(bench: Bench) -> None:
    on_gpu = done(plan_of(bench, *steps(), topology=played(Simulation(), Simulation()))).result()
    on_cpu = done(plan_of(bench, *steps(), topology=played(), device="cpu")).result()
    same(on_gpu, on_cpu, "flat")
    assert len(on_gpu.table("objects")) > 0
    assert {unit.device for unit in on_gpu.plan.units} == {"gpu:0", "gpu:1"}
    assert on_gpu.notices == ()


def test_what_moves_is_what_the_plan_says(bench: Bench) -> None:
    plan = plan_of(bench, *steps(), topology=played(Simulation()))
    stack, flat, labels = 3 * PLANE, PLANE, 2 * PLANE
    assert [(m.to, m.why, len(m.channels)) for m in plan.stages[0].transfers] == [
        ("cupy", "percentile_normalize", 2),
        ("numpy", "kept", 1),
        ("numpy", "kept", 2),
        ("numpy", "its outputs", 1),
    ]
    finished = [event for event in journal(done(plan).result()) if isinstance(event, UnitDone)]
    assert sum(event.bytes_up for event in finished) == 4 * (2 * stack + labels)
    assert sum(event.bytes_down for event in finished) == 4 * (stack + 2 * flat + labels)


def test_a_function_on_cpus_between_two_on_the_gpu(bench: Bench) -> None:
    def inverted(stack: Any) -> Any:
        assert type(stack) is np.ndarray
        return stack.max() - stack

    plan = plan_of(
        bench,
        Step(functions.gaussian_blur, channel="GFP"),
        Step(inverted, channel="GFP"),
        Step(functions.sharpen, channel="GFP", save=True),
        topology=played(Simulation()),
    )
    on_gpu = done(plan).result()
    finished = [event for event in journal(on_gpu) if isinstance(event, UnitDone)]
    assert sum(event.bytes_up for event in finished) == 4 * 2 * 3 * PLANE
    assert sum(event.bytes_down for event in finished) == 4 * 2 * 3 * PLANE
    same(on_gpu, done(plan.on_cpus()).result(), "sharpen")


@pytest.mark.parametrize("along", ["channel", "field", "t"])
def test_stacks_along_other_components(make_bench: Callable[..., Bench], along: Any) -> None:
    bench = make_bench(fields=3, z=2)

    @image(depth="one")
    def mixed(stack: Any) -> Any:
        return stack.mean(axis=0, keepdims=True).astype(stack.dtype)

    @kernel_for(mixed)
    def on_gpu(stack: Any) -> Any:
        return stack.mean(axis=0, keepdims=True).astype(stack.dtype)

    plan = plan_of(
        bench,
        Step(functions.sharpen),
        Step(mixed, stack=along),
        Step(functions.crop, {"y": 2, "x": 3, "height": 16, "width": 16}, save=True),
        topology=played(Simulation()),
    )
    ours, theirs = done(plan).result(), done(plan.on_cpus()).result()
    for well in bench.made.wells:
        where = {"well": well} if along == "field" else {"well": well, "field": 1}
        a, b = (one.image("crop", **where).astype(np.int64) for one in (ours, theirs))  # type: ignore[arg-type]  # fields by name
        assert np.abs(a - b).max() <= 1


def test_reducers_inputs_and_outputs_of_kernels(bench: Bench) -> None:
    @image(depth="same")
    def bright(stack: Any, factor: Any) -> Any:
        return stack, stack > 2000 * factor

    @kernel_for(bright)
    def on_gpu(stack: Any, factor: Any) -> Any:
        return stack, stack > 2000 * factor

    @measure(memory=("numpy", "cupy"))
    def count(stack: Any, mask: Any) -> dict[str, int]:
        return {"count": int(mask.sum())}

    def pipeline() -> list[Step]:
        return [
            Step(functions.gaussian_blur, {"sigma": 0.4}),
            Step(Mean, outputs=(ImageOutput("mean"), Table("order")), channel="GFP"),
            Step(functions.correct_illumination, channel="GFP", inputs={"flat": "mean"}, save=True),
            Step(bright, {"factor": np.float32(0.0005)}, outputs=ImageOutput("mask"), channel="GFP"),
            Step(count, inputs={"mask": "mask"}, outputs=Table("counts"), channel="GFP"),
        ]

    plan = plan_of(bench, *pipeline(), topology=played(Simulation()))
    ours, theirs = done(plan).result(), done(plan.on_cpus()).result()
    same(ours, theirs, "correct_illumination")
    a, b = ours.table("counts"), theirs.table("counts")
    assert np.allclose(a["count"], b["count"], rtol=0.01)
    assert a["count"].min() > 0


def test_each_device_has_one_process_near_it(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench(wells=("A01", "A02", "A03", "A04"), fields=2)
    log = tmp_path / "log"
    core = min(os.sched_getaffinity(0))

    @image(depth="same")
    def mine(stack: Any) -> Any:
        raise AssertionError("this is for CPUs")

    @kernel_for(mine)
    def on_gpu(stack: Any) -> Any:
        note(log, f"{os.getpid()} {sorted(os.sched_getaffinity(0))}")
        return stack + 1

    done(plan_of(bench, Step(mine), topology=played(Simulation(), Simulation(), cores=(core,)))).result()
    seen = set(lines(log))
    assert len(seen) == 2
    assert {line.partition(" ")[2] for line in seen} == {f"[{core}]"}


def test_out_of_memory_halves_the_batch_and_is_told(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(z=8, channels=("DAPI",))
    # Eight planes and the nine times that a blur takes of them; then others take most of it.
    free = 40 * 8 * PLANE
    simulated = Simulation(taken_bytes=free - 40 * PLANE)
    plan = plan_of(bench, Step(functions.gaussian_blur, save=True), topology=played(simulated, free=free))
    ours = done(plan).result()
    same(ours, done(plan.on_cpus()).result(), "gaussian_blur")
    assert ours.notices == (
        "gpu:0 (Played GPU) ran out of memory in gaussian_blur: it now takes 4 planes at a time instead of 8",
        "gpu:0 (Played GPU) ran out of memory in gaussian_blur: it now takes 2 planes at a time instead of 4",
    )
    assert any(isinstance(event, Notice) for event in ours.events(follow=False))


def test_stacks_that_were_sent_ahead_make_room_first(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(z=4, fields=6)
    # Room for one call beside what is written, and not for the stacks of the next field.
    free = 20 * 4 * 2 * PLANE
    simulated = Simulation(taken_bytes=free - 60 * PLANE)
    plan = plan_of(bench, Step(functions.gaussian_blur, save=True), topology=played(simulated, free=free))
    ours = done(plan).result()
    same(ours, done(plan.on_cpus()).result(), "gaussian_blur")
    assert ours.notices == ()


def test_a_unit_that_runs_out_of_memory_with_one_plane_fails_and_says_so(bench: Bench) -> None:
    simulated = Simulation(taken_bytes=64 * MIB - 5 * PLANE)
    plan = plan_of(bench, Step(functions.gaussian_blur), topology=played(simulated))
    failed = done(plan)
    assert failed.status == "failed"
    assert len(failed.failures) == 4
    assert failed.failures[0].message == (
        "gpu:0 (Played GPU) has not the memory for gaussian_blur on 3 planes of 24 x 32, even plane by plane; "
        "take --device cpu, or a device with more memory"
    )
    assert failed.failures[0].step == "gaussian_blur"


def test_a_stack_that_cannot_be_divided_fails_and_says_so(bench: Bench) -> None:
    simulated = Simulation(taken_bytes=64 * MIB - 12 * PLANE)
    failed = done(plan_of(bench, Step(functions.percentile_normalize), topology=played(simulated)))
    assert "percentile_normalize on 3 planes of 24 x 32, and it takes them together" in failed.failures[0].message


def test_units_of_a_lost_gpu_go_to_another_one(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(wells=("A01", "A02", "A03"), fields=4)
    plan = plan_of(bench, *steps(), topology=played(Simulation(), Simulation(lost_after=3)))
    ours = done(plan).result()
    same(ours, done(plan.on_cpus()).result(), "flat")
    (told,) = ours.notices
    assert told == ("gpu:1 (Played GPU) was lost: it fell off the bus, as its description wants; its units go to gpu:0")
    finished = [event.unit for event in journal(ours) if isinstance(event, UnitDone)]
    assert sorted(finished) == [unit.id for unit in plan.units]


def test_a_lost_gpu_whose_units_fit_nowhere_fails_them_clearly_and_the_run_goes_on_later(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(wells=("A01", "A02", "A03"), fields=4)
    plan = plan_of(bench, *steps(), topology=played(Simulation(lost_after=9)))
    failed = done(plan)
    assert failed.status == "failed"
    finished = {event.unit for event in journal(failed) if isinstance(event, UnitDone)}
    assert len(failed.failures) == 12 - len(finished)
    assert 0 < len(finished) < 12
    assert failed.failures[0].message == (
        "gpu:0 (Played GPU) was lost, and no other GPU has room for its units: it fell off the bus, as its "
        "description wants; go on with --resume when it is back, or start with --device cpu"
    )
    again = done(plan_of(bench, *steps(), topology=played(Simulation())), resume=failed.id).result()
    reused = [event for event in journal(again) if isinstance(event, UnitDone) and event.reused]
    assert {event.unit for event in reused} == finished


def test_a_gpu_that_cannot_be_opened_counts_as_lost(bench: Bench) -> None:
    ours = done(plan_of(bench, *steps(), topology=played(Simulation(lost_after=0), Simulation()))).result()
    assert len(ours.notices) == 1


def test_a_worker_of_a_gpu_that_is_killed_costs_nothing(bench: Bench, tmp_path: Path) -> None:
    once = tmp_path / "once"

    @image(depth="same")
    def mine(stack: Any) -> Any:
        raise AssertionError("this is for CPUs")

    @kernel_for(mine)
    def on_gpu(stack: Any) -> Any:
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return stack + 1

    ours = done(plan_of(bench, Step(mine), topology=played(Simulation()))).result()
    for well, field in bench.places():
        assert np.array_equal(ours.image("mine", well=well, field=field)[0, 0], bench.pixels(well, field, 0) + 1)


def test_a_kernel_that_breaks_its_device_s_context_costs_one_unit(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"

    @image(depth="same")
    def mine(stack: Any, bad: int = 0) -> Any:
        raise AssertionError("this is for CPUs")

    @kernel_for(mine)
    def on_gpu(stack: Any, bad: int = 0) -> Any:
        note(log, str(os.getpid()))
        if int(stack[0, 0, 0]) == bad:
            raise DeviceBrokenError("cudaErrorIllegalAddress")
        return stack + 1

    bad = int(bench.pixels("A01", 2, 0)[0, 0, 0])
    ours = done(plan_of(bench, Step(mine, {"bad": bad}, channel="DAPI"), topology=played(Simulation())))
    (failure,) = ours.failures
    assert (failure.well, failure.field) == ("A01", 2)
    assert failure.message == "a kernel crashed on the GPU: cudaErrorIllegalAddress"
    assert len(set(lines(log))) == 2
    assert sum(stage.done for stage in ours.progress.stages) == 3


def test_a_kernel_that_raises_is_told_as_a_function_is(bench: Bench) -> None:
    @image(depth="same")
    def mine(stack: Any) -> Any:
        return stack

    @kernel_for(mine)
    def on_gpu(stack: Any) -> Any:
        raise ValueError("no kernel image is available")

    failed = done(plan_of(bench, Step(mine), topology=played(Simulation())))
    assert failed.failures[0].message.startswith("ValueError: no kernel image is available (in on_gpu, line ")
    assert failed.failures[0].step == "mine"


def test_a_run_on_gpus_is_cancelled(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"

    @image(depth="same")
    def mine(stack: Any) -> Any:
        return stack

    @kernel_for(mine)
    def on_gpu(stack: Any) -> Any:
        note(log, str(os.getpid()))
        while True:
            pass

    started = run(plan_of(bench, Step(mine), topology=played(Simulation(), Simulation())))
    until(lambda: len(lines(log)) == 2, "both GPUs computing")
    pids = {int(line) for line in lines(log)}
    started.cancel()
    assert started.wait(5)
    assert started.status == "cancelled"
    until(ended(sorted(pids)), "the workers' end")


def test_a_plan_for_gpus_that_are_not_here_runs_on_cpus_and_says_so(bench: Bench) -> None:
    plan = plan_of(bench, *steps(), topology=load_topology(SAMPLES / "4-l4.json"))
    assert [device.id for device in plan.devices] == ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]
    ours = done(plan).result()
    (told,) = ours.notices
    assert told == ("gpu:0, gpu:1, gpu:2, gpu:3 (NVIDIA L4) are not on this machine; the run computes on CPUs")
    assert ours.plan.memory.workers <= len(os.sched_getaffinity(0))
    assert ours.plan.devices == ()
    assert {unit.device for unit in ours.plan.units} == {"cpu"}
    on_cpu = done(plan_of(bench, *steps(), topology=played(), device="cpu"), force=True).result()
    assert contents(ours) == contents(on_cpu)


def test_a_plan_for_gpus_that_are_not_here_is_refused_where_a_function_needs_them(bench: Bench) -> None:
    @image(depth="same", memory=("cupy",))
    def mine(stack: Any) -> Any:
        return stack

    plan = plan_of(bench, Step(mine), topology=load_topology(SAMPLES / "4-l4.json"))
    with pytest.raises(CompileError, match="mine takes arrays of a GPU only"):
        run(plan)


def test_a_function_for_gpus_alone_runs_on_one(bench: Bench) -> None:
    @image(depth="same", memory=("cupy",))
    def mine(stack: NDArray[Any]) -> NDArray[Any]:
        return stack + 7

    ours = done(plan_of(bench, Step(mine, channel="DAPI"), topology=played(Simulation()))).result()
    found = ours.image("mine", well="A01", field=1)
    assert np.array_equal(found[0, 0], bench.pixels("A01", 1, 0) + 7)
