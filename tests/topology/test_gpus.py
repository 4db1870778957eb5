"""Discovery of GPUs: the real nvidia-ml-py, on a driver that tells of real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openhcs_jupyter.topology import Gpu, Link, MigSlice, Topology, load_topology
from tests.topology.driver import SAMPLES, StubDriver

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> StubDriver:
    return StubDriver(tmp_path_factory.mktemp("driver"))


def sample(name: str) -> Topology:
    return load_topology(SAMPLES / f"{name}.json")


def gpu(index: int, **how: object) -> Gpu:
    given = {
        "uuid": f"GPU-{index}",
        "name": "NVIDIA RTX A6000",
        "memory_bytes": 48 << 30,
        "memory_free_bytes": 40 << 30,
        "compute_capability": (8, 6),
        "pcie": f"0000:{index + 0x41:02X}:00.0",
        "cores": (0, 1),
    }
    return Gpu(**(given | how))  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(("name", "switched"), [("2-a100-mig", False), ("4-l4", False), ("8-h100-nvlink", True)])
def test_real_servers_are_discovered_as_they_are(driver: StubDriver, name: str, switched: bool) -> None:
    server = sample(name)
    found = driver.discovered(driver.install(server.gpus, switched=switched), server.core_ids)
    assert found.gpus == server.gpus
    assert found.notes == ()


def test_two_gpus_that_a_bridge_joins(driver: StubDriver) -> None:
    pair = [gpu(i, links=(Link(to=f"GPU-{1 - i}", kind="nvlink", lanes=4),)) for i in range(2)]
    assert driver.discovered(driver.install(pair)).gpus == tuple(pair)


def test_only_the_cores_that_the_process_may_use_are_near(driver: StubDriver) -> None:
    environment = driver.install([gpu(0, cores=(0, 1, 64, 65, 100))])
    (found,) = driver.discovered(environment, cores=(1, 64, 70)).gpus
    assert found.cores == (1, 64)


def test_a_gpu_that_fell_off_the_bus_is_left_out_and_told(driver: StubDriver) -> None:
    server = sample("4-l4")
    found = driver.discovered(driver.install(server.gpus, lost=[2]))
    assert [one.uuid for one in found.gpus] == [server.gpus[i].uuid for i in (0, 1, 3)]
    assert all(link.to != server.gpus[2].uuid for one in found.gpus for link in one.links)
    (note,) = found.notes
    assert note == "GPU 2 of the driver cannot be used: GPU is lost"


@pytest.mark.parametrize(
    ("shown", "left"),
    [
        ("1", [1]),
        ("3,0", [0, 3]),
        ("", []),
        ("-1", []),
        ("0,9,1", [0]),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_hides_gpus(driver: StubDriver, shown: str, left: list[int]) -> None:
    server = sample("4-l4")
    found = driver.discovered(driver.install(server.gpus) | {"CUDA_VISIBLE_DEVICES": shown})
    assert [one.uuid for one in found.gpus] == [server.gpus[index].uuid for index in left]


def test_cuda_visible_devices_names_gpus_and_slices(driver: StubDriver) -> None:
    server = sample("2-a100-mig")
    part = server.gpus[0].mig[1]
    environment = driver.install(server.gpus)
    (found,) = driver.discovered(environment | {"CUDA_VISIBLE_DEVICES": part.uuid}).gpus
    assert found.mig == (part,)
    (found,) = driver.discovered(environment | {"CUDA_VISIBLE_DEVICES": server.gpus[1].uuid[:12]}).gpus
    assert found.uuid == server.gpus[1].uuid


def test_without_a_driver_there_are_no_gpus(driver: StubDriver) -> None:
    environment = driver.install([gpu(0)])
    del environment["STUB_NVML"]
    found = driver.discovered(environment)
    assert (found.gpus, found.notes) == ((), ())


def test_without_nvidia_ml_py_there_are_no_gpus() -> None:
    code = "import sys; sys.modules['pynvml'] = None; from openhcs_jupyter.topology import discover; discover().gpus"
    environment = {name: value for name, value in os.environ.items() if name != "OPENHCS_TOPOLOGY"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_whole_machine_with_its_gpus(driver: StubDriver) -> None:
    environment = driver.install(sample("4-l4").gpus)
    code = "from openhcs_jupyter.topology import discover; print([device.id for device in discover().devices])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['gpu:0', 'gpu:1', 'gpu:2', 'gpu:3']"


def test_slices_are_devices_of_their_own_and_share_a_gpu() -> None:
    devices = sample("2-a100-mig").devices
    assert [device.id for device in devices] == [f"gpu:{i}" for i in range(5)]
    assert [device.name.rpartition(" ")[2] for device in devices] == ["3g.20gb", "2g.10gb", "1g.5gb"] + ["3g.20gb"] * 2
    assert [round(device.share * 7) for device in devices] == [3, 2, 1, 3, 3]
    assert devices[2].uuid.startswith("MIG-")
    assert devices[0].cores == tuple(range(32))


def test_a_slice_of_a_size_that_says_nothing_counts_as_a_whole() -> None:
    part = MigSlice(uuid="MIG-1", profile="", memory_bytes=1, memory_free_bytes=1)
    server = Topology(host="a", cores=1, memory_bytes=1, memory_free_bytes=1, gpus=(gpu(0, mig=(part,)),))
    assert server.devices[0].share == 1.0


def test_reading_samples_takes_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(Path(SAMPLES / "8-h100-nvlink.json")))
    from openhcs_jupyter.topology import discover

    found = discover()
    assert len(found.devices) == 8
    assert {link.kind for one in found.gpus for link in one.links} == {"nvlink"}
