"""What starts remote kernels: JupyterLab's own manager, nbconvert, papermill; and a gateway instead of SSH kernels."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
import websocket
from jupyter_client.session import Session
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from tests.engine.bench import until
from tests.kernel.conftest import until_nothing_is_left
from tests.kernel.lab import Lab, can_serve, lab
from tests.kernel.test_batch import NOTEBOOKS, notebook, texts
from tests.streaming.network import KERNEL_ADDRESS, can_make_networks, network

pytestmark = pytest.mark.skipif(not can_serve(), reason="OpenSSH's server is not installed")


def jupyter(made: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", *words]
    return subprocess.run(
        line, env=made.environment, capture_output=True, text=True, timeout=120, check=False, cwd=made.laptop
    )


def test_nbconvert_executes_the_notebook_of_the_remote_kernel_there(made: Lab) -> None:
    words = ["--execute", "--ExecutePreprocessor.kernel_name=openhcs-lab", "--to", "notebook", "--output-dir", "."]
    done = jupyter(made, "jupyter", "nbconvert", *words, str(NOTEBOOKS / "08_remote_kernel.ipynb"))
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(made.laptop / "08_remote_kernel.ipynb", as_version=4)
    outputs = [out for cell in executed.cells if cell.cell_type == "code" for out in cell.outputs]
    said = "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in outputs)
    assert f"in {made.home}" in said
    assert "over SSH" in said
    assert "goes on in the background" in said
    assert "nuclei: done" in said
    assert "nuclei can be viewed." in said
    until_nothing_is_left(made)


def test_papermill_executes_with_the_remote_kernel(made: Lab) -> None:
    source = notebook(made.laptop / "small.ipynb", "import os\nprint(os.getcwd(), times)")
    words = ["-k", "openhcs-lab", "-p", "times", "7", "--no-progress-bar"]
    done = jupyter(made, "papermill", *words, str(source), "report.ipynb")
    assert done.returncode == 0, done.stderr
    assert texts(made.laptop / "report.ipynb") == f"{made.home} 7\n"
    until_nothing_is_left(made)


def test_jupyterlabs_manager_starts_restarts_and_revives_the_kernel(made: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    asyncio.run(_with_jupyterlabs_manager(made))
    until_nothing_is_left(made)


async def _with_jupyterlabs_manager(made: Lab) -> None:
    manager = AsyncMappingKernelManager(root_dir=str(made.laptop))
    kernel_id = await manager.start_kernel(kernel_name="openhcs-lab")
    try:
        kernel = manager.get_kernel(kernel_id)
        first = await _execute(kernel, "import os; print(os.getpid())")
        request = await _begin(kernel, "import time; time.sleep(100)")
        await manager.interrupt_kernel(kernel_id)
        assert await _end(kernel, request) == "KeyboardInterrupt"
        await manager.restart_kernel(kernel_id)
        second = await _execute(kernel, "import os; print(os.getpid())")
        assert second != first
        revived = asyncio.Event()
        kernel.add_restart_callback(revived.set, "restart")
        psutil.Process(int(second)).kill()
        await asyncio.wait_for(revived.wait(), 30)
        async with asyncio.timeout(30):  # that is said before the next kernel is there
            while not await kernel.is_alive():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert await _execute(kernel, "import os; print(os.getpid())") not in (first, second)
        # A Jupyter that waits for the network would wait with all of its kernels.
        made.stop()
        begun, longest = time.monotonic(), 0.0
        while time.monotonic() < begun + 4:  # Jupyter asks every three seconds how its kernels are
            before = time.monotonic()
            await asyncio.sleep(0.05)
            longest = max(longest, time.monotonic() - before)
        assert longest < 2
        made.start()
        assert await _execute(kernel, "print(7)") == "7"
    finally:
        await manager.shutdown_kernel(kernel_id)


async def _client(kernel: Any) -> Any:
    client = kernel.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    return client


async def _execute(kernel: Any, code: str) -> str:
    client = await _client(kernel)
    told: list[str] = []

    def hear(message: Any) -> None:
        if message["msg_type"] == "stream":
            told.append(message["content"]["text"])

    await client.execute_interactive(code, output_hook=hear, timeout=60)
    client.stop_channels()
    return "".join(told).strip()


async def _begin(kernel: Any, code: str) -> tuple[Any, str]:
    client = await _client(kernel)
    request = client.execute(code)
    while (message := await client.get_iopub_msg(timeout=20))["msg_type"] != "execute_input":
        assert message
    return client, request


async def _end(kernel: Any, begun: tuple[Any, str]) -> str:
    client, request = begun
    while True:
        reply = await client.get_shell_msg(timeout=20)
        if reply["parent_header"]["msg_id"] == request:
            client.stop_channels()
            return str(reply["content"]["ename"])


@contextmanager
def server(environment: dict[str, str], folder: Path, *words: str) -> Iterator[str]:
    """Start a Jupyter server with the token ``known``, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=known", "--allow-root",
        "--no-browser", f"--ServerApp.root_dir={folder}", "--ServerApp.disable_check_xsrf=True", *words,
    ]  # fmt: skip
    with (folder / f"server-{port}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *options], env=environment, stdout=log, stderr=log
        )
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/api/kernels"), "the Jupyter server", 60)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(_request(url), timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _request(url: str, body: object = None) -> urllib.request.Request:
    data = json.dumps(body).encode() if body is not None else None
    return urllib.request.Request(url, data, {"Authorization": "token known"})


def test_a_gateway_on_the_server_is_the_other_way(made: Lab) -> None:
    there = made.environment | {
        name: value.replace(str(made.laptop), str(made.home))
        for name, value in made.environment.items()
        if name not in ("PATH", "PYTHONPATH")
    }
    there["JUPYTER_RUNTIME_DIR"] = str(made.home / "gateway")
    install = [sys.executable, "-m", "openhcs_jupyter.cli", "install", "--prefix", str(made.home / "prefix")]
    subprocess.run(install, env=there, check=True, capture_output=True)
    with ExitStack() as opened:
        far = opened.enter_context(server(there, made.home))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ssh = subprocess.Popen(
            [str(made.laptop / "bin" / "ssh"), "-N", "-L", f"127.0.0.1:{port}:{far}", "lab"], env=made.environment
        )
        opened.callback(lambda: (ssh.terminate(), ssh.wait()))
        until(lambda: _answers(f"http://127.0.0.1:{port}/api/kernels"), "the forwarded server", 20)
        gateway = [f"--gateway-url=http://127.0.0.1:{port}", "--GatewayClient.auth_token=known"]
        near = opened.enter_context(server(made.environment, made.laptop, *gateway))
        with urllib.request.urlopen(_request(f"http://{near}/api/kernels", {"name": "openhcs"}), timeout=60) as answer:
            kernel = json.load(answer)["id"]
        link = websocket.create_connection(
            f"ws://{near}/api/kernels/{kernel}/channels", header=["Authorization: token known"], timeout=60
        )
        opened.callback(link.close)
        assert _through(link, "import os; print(os.environ['HOME'])") == str(made.home)
        assert "%openhcs" in _through(link, "%openhcs help")
        delete = urllib.request.Request(
            f"http://{near}/api/kernels/{kernel}", headers={"Authorization": "token known"}, method="DELETE"
        )
        urllib.request.urlopen(delete, timeout=60).close()
    until_nothing_is_left(made)


def _through(link: websocket.WebSocket, code: str) -> str:
    session = Session()
    message = session.msg("execute_request", {"code": code, "silent": False, "stop_on_error": True})
    link.send(json.dumps(message | {"channel": "shell", "buffers": []}, default=str))
    told = ""
    while True:
        heard = json.loads(link.recv())
        if heard["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        if heard["msg_type"] == "stream":
            told += heard["content"]["text"]
        if heard["msg_type"] == "status" and heard["content"]["execution_state"] == "idle":
            return told.strip()


PRINTING = """
import time
from pathlib import Path
n = 0
while not Path({mended!r}).exists():
    print(n, flush=True)
    n += 1
    Path({begun!r}).touch()
    time.sleep(0.1)
print('to', n)
"""


@pytest.mark.skipif(not can_make_networks(), reason="only root makes network namespaces, with ip and tc")
def test_two_machines_whose_cable_is_cut_lose_no_output_and_no_plane() -> None:
    with ExitStack() as opened:
        cable = opened.enter_context(network())
        far = opened.enter_context(lab(KERNEL_ADDRESS, tuple(cable.command("kernel")), "-o ServerAliveInterval=1"))
        words = ["install", "--remote", "lab", "--prefix", str(far.prefix), "--python", sys.executable]
        line = [*cable.command("viewer"), sys.executable, "-m", "openhcs_jupyter.cli", *words]
        subprocess.run(line, env=far.environment, check=True, capture_output=True, timeout=60)
        laptop = opened.enter_context(_laptop(cable.command("viewer"), far))
        assert laptop()["ready"]
        assert not laptop(cell="%openhcs connect demo")["error"]
        wells = "%%openhcs seen --plate 1 --wells A01 --view\npipeline_steps = [Step(max_projection, save=True)]"
        told = laptop(cell=wells, batch=False)
        assert "Jupyter has no screen there" in told["text"]
        assert str(far.home) in laptop(cell="print(seen.folder)")["text"]
        expected = laptop(planes=True)["planes"]
        assert len(expected) == 8
        begun, mended = far.home / "begun", far.home / "mended"
        laptop.send(cell=PRINTING.format(begun=str(begun), mended=str(mended)))
        until(begun.exists, "the first number")
        connection = far.named("[mux]")
        cable.cut()
        until(lambda: not any(each.is_running() for each in connection), "ssh to give up", 30)
        cable.mend()
        mended.touch()
        printed = laptop.answer()
        *numbers, _, count = printed["text"].split()
        assert numbers == [str(n) for n in range(int(count))]
        assert printed["reply"] == "ok"
        assert laptop(planes=True)["planes"] == expected
        laptop.end()
        until_nothing_is_left(far)


class _Laptop:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, **order: object) -> None:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return json.loads(self._process.stdout.readline())

    def __call__(self, **order: object) -> dict[str, Any]:
        if order:
            self.send(**order)
        return self.answer()

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(30) == 0


@contextmanager
def _laptop(inside: list[str], made: Lab) -> Iterator[_Laptop]:
    command = [*inside, sys.executable, "-m", "tests.kernel.laptop", "openhcs-lab"]
    environment = made.environment | {"DISPLAY": ""}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield _Laptop(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
