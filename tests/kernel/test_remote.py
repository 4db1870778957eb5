"""A kernel on another machine, through a real SSH server, as JupyterLab, nbconvert and papermill use it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from tests.engine.bench import until
from tests.jupyter import TIMEOUT_S, Kernel
from tests.kernel.lab import Lab, can_serve, lab

pytestmark = pytest.mark.skipif(not can_serve(), reason="OpenSSH's server is not installed")


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    """A laptop and a server; this process is the laptop's Jupyter."""
    with lab() as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        made.install()
        yield made


@pytest.fixture
def start(made: Lab) -> Iterator[Callable[..., Kernel]]:
    """Return a function that starts the remote kernel; in the end nothing of it is left on either side."""
    started: list[Kernel] = []

    def launch(name: str = "openhcs-lab") -> Kernel:
        manager = KernelManager(kernel_name=name)
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        started.append(Kernel(manager, client))
        client.wait_for_ready(timeout=TIMEOUT_S)
        return started[-1]

    yield launch
    for each in started:
        each.client.stop_channels()
        if each.manager.has_kernel:
            each.manager.shutdown_kernel()
        each.manager.cleanup_resources()
    until(lambda: not made.left(), "the end of all processes", 15)
    assert not list((made.home / "jupyter" / "runtime").iterdir())
    assert not list((made.laptop / "run" / "openhcs-jupyter").glob("remote-*"))


def linked(kernel: Kernel) -> None:
    until(lambda: kernel.manager.provisioner.tunnel.is_linked, "the line to the kernel", 15)


def test_the_kernelspec_names_the_machine_and_its_python(made: Lab) -> None:
    said = made.install("--name", "other", "--idle-hours", "3").stdout
    assert "openhcs-jupyter 0." in said
    assert "GPUs" in said
    spec = json.loads((made.prefix / "share/jupyter/kernels/other/kernel.json").read_text())
    assert spec["display_name"] == "OpenHCS on lab"
    assert spec["metadata"]["kernel_provisioner"]["config"]["idle_hours"] == 3
    assert "Ready." in made.command("doctor", "--remote", "other").stdout
    assert "other" in made.command("doctor").stdout


def test_what_is_missing_is_said_with_what_to_do(made: Lab) -> None:
    unknown = made.command("install", "--remote", "nobody@nowhere.invalid")
    assert unknown.returncode == 1
    assert "Could not resolve" in unknown.stderr
    assert "Try: ssh nobody@nowhere.invalid" in unknown.stderr
    bare = made.command("install", "--remote", "lab", "--python", "/usr/bin/false")
    assert bare.returncode == 1
    assert "openhcs-jupyter is not found on lab (/usr/bin/false)" in bare.stderr
    assert "pip install" in bare.stderr
    assert made.command("doctor", "--remote", "none").returncode == 2


def test_cells_run_there_and_are_interrupted_and_the_kernel_restarts(made: Lab, start: Callable[..., Kernel]) -> None:
    kernel = start()
    assert kernel.run("import os; print(os.getcwd())").text.strip() == str(made.home)
    assert kernel.run("1 / 0").error.endswith("division by zero")
    request = kernel.send("import time\nprint('begun')\ntime.sleep(100)")
    begun = time.monotonic()
    time.sleep(0.3)
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.collect(request, 10).error
    assert time.monotonic() - begun < 5
    linked(kernel)
    kernel.run("kept = 1")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=TIMEOUT_S)
    assert "NameError" in kernel.run("kept").error
    linked(kernel)


def test_a_kernel_that_dies_is_told_and_started_again(start: Callable[..., Kernel]) -> None:
    kernel = start()
    linked(kernel)
    pid = int(kernel.run("import os; print(os.getpid())").text)
    assert kernel.manager.is_alive()
    psutil.Process(pid).kill()
    until(lambda: not kernel.manager.is_alive(), "the end to be noticed", 10)
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=TIMEOUT_S)
    assert int(kernel.run("import os; print(os.getpid())").text) != pid


def test_nobody_else_on_the_server_reaches_the_kernel(made: Lab, start: Callable[..., Kernel]) -> None:
    kernel = start()
    linked(kernel)
    file = next((made.home / "jupyter" / "runtime").glob("*.json"))
    content = json.loads(file.read_text())
    assert content["transport"] == "ipc"
    assert file.stat().st_mode & 0o077 == 0
    assert Path(content["ip"]).parent.stat().st_mode & 0o077 == 0
    assert content["key"] not in " ".join(" ".join(each.cmdline()) for each in made.left())
