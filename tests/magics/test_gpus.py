"""What a user sees of GPUs: %openhcs gpus, doctor, the dry run, and what a run had to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openhcs_jupyter.cli import main
from openhcs_jupyter.kernel.doctor import examine
from openhcs_jupyter.magics.views.gpus import gpus_view
from openhcs_jupyter.topology import Gpu, Simulation, Topology, load_topology, save_topology
from tests.jupyter import Kernel
from tests.topology.driver import SAMPLES, StubDriver

PIPELINE = """pipeline_steps = [
    Step(percentile_normalize),
    Step([gaussian_blur, top_hat], save=True),
    Step(segment_nuclei, channel="DAPI", outputs=Labels("nuclei")),
]
"""


def words(text: str) -> str:
    return " ".join(text.split())


def test_slices_stand_below_their_gpu() -> None:
    text = gpus_view(load_topology(SAMPLES / "2-a100-mig.json")).text
    lines = [words(line) for line in text.splitlines()]
    assert lines[0] == "a100: 2 GPUs."
    assert lines[2].startswith("NVIDIA A100-PCIE-40GB 42.9 GB 42.3 GB 8.0 0000:17:00.0 0 0-31 GPU-5fd4f087")
    assert lines[3] == "gpu:0 slice 3g.20gb 20.9 GB 20.9 GB MIG-3f1c6f3c-2f0a-5d0c-9f55-0d5e1f0a7c01"
    assert lines[-2:] == ["gpu:0-2 - across NUMA nodes", "gpu:3-4 across NUMA nodes -"]


def test_neighbours_are_told() -> None:
    linked = words(gpus_view(load_topology(SAMPLES / "8-h100-nvlink.json")).text)
    assert "gpu:7 NVLink x18" in linked
    text = words(gpus_view(load_topology(SAMPLES / "4-l4.json")).text)
    assert "gpu:0 - one host bridge across NUMA nodes across NUMA nodes" in text


def test_a_machine_without_gpus_is_told_what_to_do() -> None:
    bare = Topology(host="laptop", cores=2, memory_bytes=1, memory_free_bytes=1, notes=("GPU 0 is lost",))
    assert gpus_view(bare).text.splitlines() == [
        "laptop: 0 GPUs. Runs compute on CPUs. With an NVIDIA GPU: pip install 'openhcs-jupyter[gpu]'.",
        "Note: GPU 0 is lost",
    ]


def test_in_the_notebook(notebook: Kernel) -> None:
    said = notebook.run(f"%env OPENHCS_TOPOLOGY={SAMPLES / '4-l4.json'}\n%openhcs gpus")
    notebook.run("import os; del os.environ['OPENHCS_TOPOLOGY']")
    assert "l4: 4 GPUs." in said.text
    assert "NVIDIA L4" in said.html


def test_from_the_command_line_on_a_driver(tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    driver = StubDriver(tmp_path)
    environment = driver.install(load_topology(SAMPLES / "4-l4.json").gpus, lost=[3])
    command = [sys.executable, "-m", "openhcs_jupyter.cli"]
    done = subprocess.run([*command, "gpus"], env=environment, capture_output=True, text=True, check=True)
    assert ": 3 GPUs." in done.stdout
    assert "GPU 3 of the driver cannot be used: GPU is lost" in done.stdout
    done = subprocess.run([*command, "doctor"], env=environment, capture_output=True, text=True, check=False)
    assert "3 x NVIDIA L4" in done.stdout
    assert "GPU 3 of the driver cannot be used" in done.stdout


def test_doctor_without_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = Topology(host="laptop", cores=2, memory_bytes=1 << 34, memory_free_bytes=1 << 33)
    save_topology(bare, tmp_path / "laptop.json")
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(tmp_path / "laptop.json"))
    (found,) = [finding for finding in examine() if finding.what == "GPUs"]
    assert found.state == "ok"
    assert found.found.endswith("runs compute on CPUs")


def test_the_dry_run_shows_devices_and_moves(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(SAMPLES / "2-a100-mig.json"))
    said = run(tmp_path, capsys, data, "--dry-run")
    assert "gpu:2 NVIDIA A100-PCIE-40GB MIG 1g.5gb 1 " in said
    assert "percentile_normalize gpu z" in said
    assert "Moves percentile_normalize: DAPI, GFP up to the GPU, for percentile_normalize" in said
    assert "gaussian_blur: DAPI, GFP down, its images are kept" in said
    assert "gpu" not in run(tmp_path, capsys, data, "--dry-run", "--device", "cpu")


def test_a_run_says_what_became_of_its_gpus(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(SAMPLES / "4-l4.json"))
    said = run(tmp_path, capsys, data)
    told = "gpu:0, gpu:1, gpu:2, gpu:3 (NVIDIA L4) are not on this machine; the run computes on CPUs"
    assert f"nuclei: {told}" in said
    assert f"Note {told}" in said


def test_a_gpu_that_is_only_played_runs_and_loses_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gpu(index: int, **how: Any) -> Gpu:
        size = 1 << 30
        return Gpu(
            uuid=f"GPU-{index}",
            name="Played",
            memory_bytes=size,
            memory_free_bytes=size,
            simulated=Simulation(**how),
        )

    here = Topology(
        host="played", cores=2, memory_bytes=1 << 33, memory_free_bytes=1 << 33, gpus=(gpu(0), gpu(1, lost_after=2))
    )
    save_topology(here, tmp_path / "played.json")
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(tmp_path / "played.json"))
    said = run(tmp_path, capsys, data, "--device", "gpu")
    assert "Note gpu:1 (Played) was lost: it fell off the bus" in said
    assert "nuclei: done, 8 units" in said


def test_a_gpu_that_is_not_there_is_an_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENHCS_TOPOLOGY", str(SAMPLES / "4-l4.json"))
    path = tmp_path / "pipeline.py"
    path.write_text(PIPELINE)
    assert main(["run", str(path), "nuclei", "--repository", str(data / "repository"), "--device", "gpu:4"]) == 1
    assert "--device gpu:4: there is no such GPU" in capsys.readouterr().err


def run(folder: Path, capsys: pytest.CaptureFixture[str], data: Path, *options: str) -> str:
    path = folder / "pipeline.py"
    path.write_text(PIPELINE)
    assert main(["run", str(path), "nuclei", "--repository", str(data / "repository"), *options]) == 0
    return words(capsys.readouterr().out)
