"""What whoever runs a server asks and sets."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.server.metrics import serve_metrics
from openhcs_jupyter.server.settings import read_settings
from tests.server.serving import RefusedError, ServerProcess, payload


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openhcs_jupyter.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_status_and_the_metrics_tell_what_there_is(serve: Callable[..., ServerProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = serve("--max-workers", "3", "--metrics", f"127.0.0.1:{port}")
    client = server.client()
    assert client.wait(client.submit(payload("pipeline_steps = [Step(max_projection)]")).id).state == "done"
    said = _command("serve", "--status", "--state", str(server.state))
    assert said.returncode == 0, said.stderr
    assert "0 of 3 leased" in said.stdout
    assert "1 done" in said.stdout
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        told = answer.read().decode()
    assert 'openhcs_jobs{state="done"} 1.0' in told
    assert "openhcs_cores 3.0" in told


def test_metrics_stay_on_the_loopback() -> None:
    with pytest.raises(UsageError, match="loopback"):
        serve_metrics("0.0.0.0:9100", lambda: pytest.fail("nobody asks"))


def test_a_new_token_replaces_the_earlier_one(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    earlier = server.token
    client = server.client()
    owner = client.hello(earlier).owner
    done = _command("token", owner, "--state", str(server.state), "--file", str(server.state / "token"))
    assert done.returncode == 0, done.stderr
    with pytest.raises(RefusedError, match="identity"):
        server.stranger().hello(earlier)
    assert server.client().hello(server.token).owner == owner


def test_two_servers_do_not_share_a_folder(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    said = _command("serve", "--state", str(server.state), "--bind", "tcp://127.0.0.1:0")
    assert said.returncode == 2
    assert "Another server uses" in said.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("max_worker = 3", "max_worker"),
        ("max_workers = -1", "max_workers"),
        ("[limits]\nmemory = 3", "memory"),
        ("[accounts]\nada = 3", "accounts"),
        ("bind =", "cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=what):
        read_settings(file)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('[accounts]\nada = "root"', "as root"),
        ('[accounts]\nada = "games"\nben = "games"', "same account"),
        ('[accounts]\nada = "nobody-is-called-so"', "no account"),
        ('repository = "omero://omero.lab.edu"', "names no user"),
        ('bind = "127.0.0.1"', "--bind"),
    ],
)
def test_a_server_that_would_be_unsafe_does_not_start(tmp_path: Path, settings: str, said: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(settings)
    done = _command("serve", "--config", str(file), "--state", str(tmp_path / "server"))
    assert done.returncode == 2
    assert said in done.stderr
