"""Plans for GPUs: what runs there, what moves, which unit goes where, and what does not fit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openhcs_jupyter import functions
from openhcs_jupyter.compiler import ExecutionPlan
from openhcs_jupyter.compiler.devices import SHARE_OF_FREE_MEMORY, place
from openhcs_jupyter.compiler.plan import Unit
from openhcs_jupyter.errors import CompileError
from openhcs_jupyter.pipeline import ImageOutput, Labels, Step, Table, image, kernel_for
from openhcs_jupyter.topology import Device, Gpu, Topology, load_topology
from tests.compiler.functions import MeanImage, plain
from tests.compiler.plates import GB, make_plate, plan_of, problem_of

SAMPLES = Path(__file__).parents[1] / "topology" / "samples"
MIB = 1 << 20


def server(name: str) -> Topology:
    return load_topology(SAMPLES / f"{name}.json")


def machine(*free: int) -> Topology:
    gpus = tuple(
        Gpu(uuid=f"GPU-{i}", name="NVIDIA L4", memory_bytes=24 * GB, memory_free_bytes=size)
        for i, size in enumerate(free)
    )
    return Topology(host="here", cores=4, memory_bytes=100 * GB, memory_free_bytes=100 * GB, gpus=gpus)


def memories(plan: ExecutionPlan) -> list[list[str]]:
    return [[use.memory for use in next(iter(step.chains.values()))] for step in plan.steps]


def moves(plan: ExecutionPlan, stage: int = 0) -> list[tuple[int, str, str]]:
    return [(move.step, move.to, move.why) for move in plan.stages[stage].transfers]


QUICKSTART = [
    Step(functions.percentile_normalize),
    Step(functions.max_projection, save=True),
    Step({"DAPI": [functions.gaussian_blur, (functions.top_hat, {"radius": 15})], "GFP": functions.gaussian_blur}),
    Step(functions.segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
    Step(functions.measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
    Step(functions.well_medians, inputs={"objects": "nuclei"}, outputs=Table("wells")),
]


def test_functions_with_a_kernel_run_on_the_gpu_and_the_others_beside_it() -> None:
    plan = plan_of(QUICKSTART, topology=server("4-l4"))
    assert memories(plan) == [["cupy"], ["cupy"], ["cupy", "cupy"], ["cupy"], ["cupy"], ["numpy"]]
    assert [unit.device.partition(":")[0] for unit in plan.units if unit.stage == 0] == ["gpu"] * 4
    assert {unit.device for unit in plan.units if unit.stage == 1} == {"cpu"}


def test_functions_that_follow_each_other_on_the_gpu_leave_their_images_there() -> None:
    plan = plan_of(QUICKSTART, topology=server("4-l4"))
    assert moves(plan) == [
        (0, "cupy", "percentile_normalize"),
        (1, "numpy", "kept"),
        (3, "numpy", "its outputs"),
    ]
    up, kept, labels = plan.stages[0].transfers
    assert up.channels == kept.channels == ("DAPI", "GFP")
    assert labels.channels == ("DAPI",)


def test_a_function_between_two_of_the_gpu_costs_two_transfers() -> None:
    plan = plan_of(
        [Step(functions.gaussian_blur), Step(plain), Step(functions.top_hat, save=True)], topology=machine(GB)
    )
    assert memories(plan) == [["cupy"], ["numpy"], ["cupy"]]
    assert moves(plan) == [
        (0, "cupy", "gaussian_blur"),
        (1, "numpy", "plain"),
        (2, "cupy", "top_hat"),
        (2, "numpy", "kept"),
    ]


def test_what_a_kernel_returns_beside_its_image_comes_down() -> None:
    @image(depth="same")
    def marked(stack: Any) -> Any:
        return stack, stack > 3

    @kernel_for(marked)
    def on_gpu(stack: Any) -> Any:
        return stack, stack > 3

    plan = plan_of([Step(marked, outputs=ImageOutput("mask"))], topology=machine(GB))
    assert moves(plan) == [(0, "cupy", "marked"), (0, "numpy", "its outputs")]


def test_reducers_and_carried_images_are_fetched() -> None:
    plan = plan_of(
        [
            Step(functions.gaussian_blur),
            Step(MeanImage, outputs=ImageOutput("mean")),
            Step(functions.correct_illumination, inputs={"flat": "mean"}, channel="DAPI", save=True),
        ],
        topology=machine(GB),
    )
    assert moves(plan) == [(0, "cupy", "gaussian_blur"), (1, "numpy", "MeanImage")]
    assert moves(plan, len(plan.stages) - 1) == [(2, "cupy", "correct_illumination"), (2, "numpy", "kept")]
    assert {unit.device for unit in plan.units if plan.stages[unit.stage].kind != "compute"} == {"cpu"}


def test_device_cpu_is_what_a_machine_without_gpus_gives() -> None:
    plan = plan_of(QUICKSTART, topology=machine(GB), device="cpu")
    without = plan_of(QUICKSTART, topology=machine())
    assert plan.devices == without.devices == ()
    assert [unit.fingerprint for unit in plan.units] == [unit.fingerprint for unit in without.units]
    assert not any(stage.transfers for stage in plan.stages)


def test_results_of_a_gpu_have_another_identity_than_those_of_a_cpu() -> None:
    on_gpu, on_cpu = (plan_of(QUICKSTART, topology=machine(GB), device=device) for device in ("gpu", "cpu"))
    assert on_gpu.units[0].fingerprint != on_cpu.units[0].fingerprint
    # They depend on the kind of memory, and not on which GPU has it.
    two = plan_of(QUICKSTART, topology=machine(GB, GB))
    assert [unit.fingerprint for unit in two.units] == [unit.fingerprint for unit in on_gpu.units]


def test_a_changed_kernel_changes_the_identity() -> None:
    def pipeline(amount: int) -> list[Step]:
        @image(depth="same")
        def mine(stack: Any) -> Any:
            return stack

        @kernel_for(mine)
        def on_gpu(stack: Any) -> Any:
            return stack + amount

        return [Step(mine)]

    prints = [plan_of(pipeline(amount), topology=machine(GB)).units[0].fingerprint for amount in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]
    on_cpu = [plan_of(pipeline(amount), topology=machine()).units[0].fingerprint for amount in (1, 2)]
    assert on_cpu[0] == on_cpu[1]


def test_units_are_dealt_to_the_devices_by_what_these_can_do() -> None:
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 7)]
    plate = make_plate(wells, 4)
    whole = Counter(unit.device for unit in plan_of(QUICKSTART, plate, server("8-h100-nvlink")).units)
    assert {whole[f"gpu:{i}"] for i in range(8)} == {12}
    # 3, 2, 1, 3 and 3 sevenths of an A100.
    parts = Counter(unit.device for unit in plan_of(QUICKSTART, plate, server("2-a100-mig")).units)
    assert [parts[f"gpu:{i}"] for i in range(5)] == [24, 16, 8, 24, 24]


def test_a_unit_goes_only_where_it_fits() -> None:
    large = make_plate(size_y=11_000, size_x=11_000, z=3)
    plan = plan_of([Step(functions.gaussian_blur)], large, server("2-a100-mig"))
    # Two channels of three planes of 242 MB, twice, and nine times the larger stack.
    assert {unit.device_bytes for unit in plan.units} == {2 * 6 * 242_000_000 + 9 * 3 * 242_000_000}
    assert {unit.device for unit in plan.units} == {"gpu:0", "gpu:3", "gpu:4"}
    assert [device.id for device in plan.devices] == ["gpu:0", "gpu:3", "gpu:4"]


def test_what_fits_on_no_gpu_runs_on_cpus_and_is_told() -> None:
    plan = plan_of(QUICKSTART, topology=machine(MIB // 2, MIB))
    assert plan.devices == ()
    (told,) = plan.left_out
    assert told.what == "GPUs"
    assert told.why.startswith("the unit A01 field 1 needs ")
    assert told.why.endswith("of the freest, gpu:1 (NVIDIA L4); the run computes on CPUs")


def test_what_fits_on_no_gpu_is_an_error_where_a_gpu_is_asked_for() -> None:
    message = problem_of(QUICKSTART, topology=machine(MIB // 2, MIB), device="gpu")
    assert message.startswith("the unit A01 field 1 needs ")
    assert "may use 0.8 MB of the freest, gpu:1" in message
    assert message.endswith("--device auto.")


def test_what_takes_most_is_blamed() -> None:
    with pytest.raises(CompileError) as told:
        plan_of(
            [Step(functions.crop, {"y": 0, "x": 0, "height": 9, "width": 9}), Step(functions.sharpen)],
            topology=machine(MIB),
            device="gpu:0",
        )
    assert told.value.problems[0].step == "sharpen"


@pytest.mark.parametrize(
    ("device", "topology", "message"),
    [
        ("gpu", machine(), "--device gpu: here has no GPU"),
        ("gpu:1", machine(), "--device gpu:1: here has no GPU"),
        (
            "gpu:4",
            machine(GB, GB),
            "--device gpu:4: there is no such GPU | Did you mean 'gpu:0'? There are: gpu:0, gpu:1.",
        ),
    ],
)
def test_a_gpu_that_is_not_there(device: str, topology: Topology, message: str) -> None:
    assert problem_of(QUICKSTART, topology=topology, device=device).startswith(message[:30])


def test_one_gpu_of_several() -> None:
    plan = plan_of(QUICKSTART, topology=machine(GB, GB, GB), device="gpu:1")
    assert {unit.device for unit in plan.units} == {"cpu", "gpu:1"}


def test_a_function_for_gpus_alone() -> None:
    @image(depth="same", memory=("cupy",))
    def mine(stack: Any) -> Any:
        return stack

    assert memories(plan_of([Step(mine)], topology=machine(GB))) == [["cupy"]]
    message = problem_of([Step(mine)], topology=machine())
    assert message.startswith("mine: mine takes arrays of a GPU only, and this run computes on CPUs")
    with pytest.raises(CompileError, match="mine takes arrays of a GPU only"):
        plan_of([Step(mine)], topology=machine(GB)).on_cpus()


def test_a_kernel_with_other_parameters_than_its_function() -> None:
    @image(depth="same")
    def mine(stack: Any, radius: int = 1) -> Any:
        return stack

    @kernel_for(mine)
    def on_gpu(stack: Any, size: int = 1) -> Any:
        return stack

    message = problem_of([Step(mine)], topology=machine(GB))
    assert message.startswith("mine: mine takes radius after its stack, and its kernel for cupy size")


def test_a_pipeline_without_kernels_takes_no_gpu() -> None:
    plan = plan_of([Step(plain)], topology=machine(GB))
    assert plan.devices == ()
    assert plan.left_out == ()


def test_the_same_for_cpus() -> None:
    plan = plan_of(QUICKSTART, topology=machine(GB), wells=("B02",))
    again = plan.on_cpus()
    assert again.devices == ()
    assert {unit.well for unit in again.units} == {"B02", None} - {None}
    assert again.pipeline is plan.pipeline


def test_a_plan_for_gpus_survives_json() -> None:
    plan = plan_of(QUICKSTART, topology=server("2-a100-mig"))
    again = ExecutionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.devices[0].name == "NVIDIA A100-PCIE-40GB MIG 3g.20gb"


def test_memory_of_the_machine_is_shared_by_the_workers_of_cpus_and_gpus() -> None:
    plan = plan_of(QUICKSTART, topology=machine(GB, GB))
    each = plan.memory.in_flight_bytes // (plan.memory.workers + 2)
    assert each >= plan.memory.unit_peak_bytes
    short = plan_of(QUICKSTART, topology=machine(GB, GB), memory_bytes=each * 4)
    assert (short.memory.workers, short.memory.in_flight_bytes) == (2, 4 * each)


devices = st.builds(
    Device,
    id=st.uuids().map(str),
    uuid=st.text(),
    name=st.text(),
    memory_bytes=st.just(0),
    memory_free_bytes=st.integers(0, 1000),
    share=st.sampled_from([1.0, 3 / 7, 1 / 7]),
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(devices, min_size=1, max_size=5, unique_by=lambda one: one.id), st.lists(st.integers(0, 900), max_size=40)
)
def test_placing_never_overfills_and_balances(devices: list[Device], sizes: list[int]) -> None:
    units = [Unit(i, 0, "A01", i, (), (), "", 0, 0, device_bytes=size) for i, size in enumerate(sizes)]
    placing = place(units, {0: True}, devices)
    room = {device.id: device.memory_free_bytes * SHARE_OF_FREE_MEMORY for device in devices}
    if placing.misfit is not None:
        assert placing.misfit.device_bytes > max(room.values())
        return
    by_id = {device.id: device for device in devices}
    load = dict.fromkeys(by_id, 0.0)
    for unit in placing.units:
        assert unit.device_bytes <= room[unit.device]
        fitting = [name for name in by_id if unit.device_bytes <= room[name]]
        assert load[unit.device] == min(load[name] for name in fitting)
        load[unit.device] += max(1, unit.device_bytes) / by_id[unit.device].share
    assert {device.id for device in placing.devices} == {unit.device for unit in placing.units}
    assert [msgspec.structs.replace(unit, device="cpu") for unit in placing.units] == units
