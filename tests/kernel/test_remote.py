"""A kernel on another machine, through a real SSH server, as JupyterLab, nbconvert and papermill use it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.engine.bench import until
from tests.jupyter import TIMEOUT_S, Kernel
from tests.kernel.conftest import Warm, linked
from tests.kernel.lab import Lab, command_of

pytestmark = pytest.mark.usefixtures("at_laptop")


def until_printed(kernel: Kernel, request: str) -> None:
    """Wait until a cell has printed something."""
    while (message := kernel.client.get_iopub_msg(timeout=20))["msg_type"] != "stream":
        assert message
    assert message["parent_header"]["msg_id"] == request


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


def test_cells_run_there_and_are_interrupted_and_the_kernel_restarts(made: Lab, kernel: Kernel) -> None:
    assert kernel.run("import os; print(os.getcwd())").text.strip() == str(made.home)
    assert kernel.run("1 / 0").error.endswith("division by zero")
    request = kernel.send("import time\nprint('begun', flush=True)\ntime.sleep(100)")
    until_printed(kernel, request)
    begun = time.monotonic()
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.collect(request, 10).error
    assert time.monotonic() - begun < 5
    kernel.run("kept = 1")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=TIMEOUT_S)
    assert "NameError" in kernel.run("kept").error
    linked(kernel)


def test_a_kernel_that_dies_is_told_and_started_again(kernel: Kernel) -> None:
    pid = int(kernel.run("import os; print(os.getpid())").text)
    assert kernel.manager.is_alive()
    psutil.Process(pid).kill()
    until(lambda: not kernel.manager.is_alive(), "the end to be noticed", 10)
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=TIMEOUT_S)
    assert int(kernel.run("import os; print(os.getpid())").text) != pid
    linked(kernel)


def test_nobody_else_on_the_server_reaches_the_kernel(made: Lab, kernel: Kernel) -> None:
    file = next((made.home / "jupyter" / "runtime").glob("*.json"))
    content = json.loads(file.read_text())
    assert content["transport"] == "ipc"
    assert file.stat().st_mode & 0o077 == 0
    assert Path(content["ip"]).parent.stat().st_mode & 0o077 == 0
    assert content["key"] not in " ".join(map(command_of, made.left()))


def test_after_a_cut_kernel_and_tunnel_are_back_by_themselves(made: Lab, kernel: Kernel) -> None:
    kernel.run("kept = 42")
    tunnel = kernel.manager.provisioner.tunnel
    made.cut()
    until(lambda: not tunnel.is_linked, "the cut to be noticed", 20)
    assert kernel.manager.is_alive()
    linked(kernel)
    assert kernel.run("print(kept)", timeout=20).text.strip() == "42"
    master = made.named("[mux]")
    assert len(master) == 1
    master[0].kill()
    until(lambda: not tunnel.is_linked, "the end of the connection to be noticed", 10)
    linked(kernel)
    assert kernel.run("print(kept)", timeout=20).text.strip() == "42"


def test_nothing_that_is_printed_during_a_cut_is_lost(made: Lab, kernel: Kernel) -> None:
    tunnel = kernel.manager.provisioner.tunnel
    request = kernel.send(
        "import time\nfor n in range(60):\n    print(n, flush=True)\n    time.sleep(0.1)\nprint('the end')"
    )
    until_printed(kernel, request)
    for _ in range(3):
        made.cut()
        until(lambda: not tunnel.is_linked, "the cut to be noticed", 20)
        linked(kernel)
    printed = kernel.collect(request, 30).text.split()
    assert printed == [str(n) for n in range(int(printed[0]), 60)] + ["the", "end"]
    assert int(printed[0]) <= 2
    assert kernel.reply(request, 10) == "ok"


def test_a_cell_that_ends_during_a_cut_ends_for_the_client_too(made: Lab, kernel: Kernel) -> None:
    gate, ended = made.home / "gate", made.home / "ended"
    request = kernel.send(
        "import time\nfrom pathlib import Path\nprint('begun', flush=True)\n"
        f"while not Path({str(gate)!r}).exists(): time.sleep(0.02)\n"
        f"print('ended', flush=True)\nPath({str(ended)!r}).touch()"
    )
    until_printed(kernel, request)
    made.stop()
    until(lambda: not kernel.manager.provisioner.tunnel.is_linked, "the cut to be noticed", 20)
    gate.touch()
    until(ended.exists, "the end of the cell")
    assert kernel.manager.is_alive()
    made.start()
    assert kernel.collect(request, 30).text.strip() == "ended"
    assert kernel.reply(request, 10) == "ok"
    assert kernel.run("print(1)").text.strip() == "1"


def test_a_cell_that_is_sent_before_a_silent_cut_is_noticed_runs_once(
    made: Lab, start: Callable[[str], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openhcs_jupyter.kernel.ssh._ALIVE_S", 1)
    kernel = start("openhcs-lab")
    linked(kernel)
    kernel.run("count = 0")
    with made.silence():
        request = kernel.send("count += 1\nprint(count)")
        until(lambda: not kernel.manager.provisioner.tunnel.is_linked, "the cut to be noticed", 20)
        linked(kernel)
        assert kernel.collect(request, 30).text.strip() == "1"
        assert kernel.reply(request, 10) == "ok"
    assert kernel.run("print(count)").text.strip() == "1"
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=TIMEOUT_S)
    assert "NameError" in kernel.run("count").error


def test_agents_and_machines_in_between_work_as_the_user_has_them(
    made: Lab, start: Callable[[str], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = made.laptop / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL) as process:
        try:
            until(agent.exists, "the agent", 10)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            subprocess.run(["ssh-add", "-q", str(made.folder / "user")], check=True)
            made.install(host="beyond")
            assert start("openhcs-beyond").run("print(6 * 7)").text.strip() == "42"
        finally:
            process.terminate()


def test_a_connection_that_the_user_shares_is_used_and_left_alone(made: Lab, start: Callable[[str], Kernel]) -> None:
    def masters() -> list[psutil.Process]:
        return made.named(f"{made.laptop}/mine [mux]")

    made.install(host="shared")
    mine = masters()
    assert len(mine) == 1
    kernel = start("openhcs-shared")
    linked(kernel)
    assert kernel.run("print(6 * 7)").text.strip() == "42"
    assert made.named("[mux]") == mine
    mine[0].kill()
    until(lambda: not kernel.manager.provisioner.tunnel.is_linked, "the cut to be noticed", 20)
    linked(kernel)
    assert kernel.run("print(6 * 7)", timeout=20).text.strip() == "42"
    kernel.manager.shutdown_kernel()
    assert len(masters()) == 1
    masters()[0].kill()


JUPYTER = """
import sys, time
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="brief")
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
while not manager.provisioner.tunnel.is_linked:
    time.sleep(0.05)
for cell in sys.argv[1:]:
    assert client.execute_interactive(cell, timeout=120)["content"]["status"] == "ok"
print("running", flush=True)
time.sleep(600)
"""


def test_a_kernel_whose_client_was_killed_ends_but_not_in_the_middle_of_a_run(
    made: Lab, warm: Warm, tmp_path: Path
) -> None:
    warm.close()
    made.install("--name", "brief", "--idle-hours", str(2 / 3600))
    cell = (
        "%%openhcs --background --plate 1 --wells A01 --fields 1\nfrom tests.viewer.functions import hold_well\n"
        f"pipeline_steps = [Step(hold_well, {{'gates': {str(tmp_path)!r}}}, save=True)]"
    )
    with (tmp_path / "jupyter.log").open("w") as log:
        command = [sys.executable, "-c", JUPYTER, "%openhcs connect demo", cell]
        jupyter = psutil.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        said = iter(jupyter.stdout.readline, "")
        assert any(line.endswith("running\n") for line in said), (tmp_path / "jupyter.log").read_text()
    finally:
        jupyter.kill()
        jupyter.wait()
        jupyter.stdout.close()

    def kernels() -> list[psutil.Process]:
        return made.named("ipykernel_launcher")

    worked_until = time.monotonic() + 4
    while time.monotonic() < worked_until:
        assert kernels(), "a kernel was ended in the middle of a run"
        time.sleep(0.2)
    (tmp_path / "all").touch()
    until(lambda: not kernels(), "the end of the idle kernel", 15)
    # The connection is kept for a minute; whatever the kernel was kept by is gone now.
    until(lambda: not made.named("kernel.keeper"), "the keeper's end", 20)
    assert not list((made.home / "jupyter" / "runtime").iterdir())
    for each in made.left():
        each.kill()
    for place in (made.laptop / "run" / "openhcs-jupyter").glob("remote-*"):
        shutil.rmtree(place)
