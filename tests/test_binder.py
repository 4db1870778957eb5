"""Binder's files make an environment in which JupyterLab opens on the quickstart, and the quickstart runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.bench import until

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what git knows of the checkout, as Binder clones it."""
    folder = tmp_path_factory.mktemp("binder") / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def environment(clone: Path) -> dict[str, str]:
    """Make the environment: what pip installs of environment.yml, and postBuild; nothing of the tests' own."""
    text = (clone / "binder" / "environment.yml").read_text()
    assert "- python=3.12" in text
    wanted = re.findall(r"^ {6}- (.+)$", text.partition("- pip:")[2], re.MULTILINE)
    assert wanted
    home = clone.parent
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "env")], check=True)
    # Much faster than pip, and from the same indexes.
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(home / "env")]
    subprocess.run([*install, *wanted], cwd=clone / "binder", env=os.environ | _certificates(), check=True, timeout=240)
    plain = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    plain |= {"HOME": str(home), "PATH": f"{home / 'env' / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    post = clone / "binder" / "postBuild"
    assert os.access(post, os.X_OK)
    assert os.access(clone / "binder" / "start", os.X_OK)
    done = subprocess.run([str(post)], cwd=clone, env=plain, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ready." in done.stdout
    return plain


def _certificates() -> dict[str, str]:
    own = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return {"SSL_CERT_FILE": own} if own else {}


@pytest.fixture
def server(clone: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start JupyterLab as Binder does, and return its address."""
    command = [str(clone / "binder" / "start"), "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", "--port=0"]
    command += ["--allow-root", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    log = clone.parent / "lab.log"
    with log.open("w") as file:
        lab = subprocess.Popen(command, cwd=clone, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = until(
            lambda: next(iter(re.findall(r"(http://127\.0\.0\.1:\d+)/", log.read_text())), None), "JupyterLab to start"
        )
        until(lambda: answers(url), "JupyterLab to answer")
        yield url
    finally:
        lab.terminate()
        lab.wait(30)


def answers(url: str) -> bool:
    """Tell whether somebody listens there already: the address is printed a moment before."""
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except urllib.error.URLError:
        return False


def test_jupyterlab_opens_on_the_quickstart(server: str) -> None:
    with urllib.request.urlopen(f"{server}/", timeout=30) as answer:
        assert answer.url.endswith("/lab/tree/notebooks/01_quickstart.ipynb")
    with urllib.request.urlopen(f"{server}/api/kernelspecs", timeout=30) as answer:
        assert '"openhcs"' in answer.read().decode()
    with urllib.request.urlopen(f"{server}/api/contents/notebooks/01_quickstart.ipynb?content=0", timeout=30) as answer:
        assert answer.status == 200


def test_the_quickstart_runs_there(clone: Path, environment: dict[str, str]) -> None:
    command = [str(clone / "binder" / "start"), "jupyter", "nbconvert", "--to", "html", "--execute"]
    command += ["--KernelManager.transport_encryption=auto", "notebooks/01_quickstart.ipynb"]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    page = (clone / "notebooks" / "01_quickstart.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert "Results: " in page
