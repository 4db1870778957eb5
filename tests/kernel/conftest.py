"""What tests of remote kernels share: a kernel that is warm already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.engine.bench import until
from tests.jupyter import Kernel
from tests.kernel.lab import Lab, started


@pytest.fixture(scope="session")
def made(ssh_lab: Lab) -> Lab:
    """A laptop and a server; the laptop has the remote kernel "openhcs-lab"."""
    return ssh_lab


@pytest.fixture(scope="module")
def at_laptop(made: Lab) -> Iterator[pytest.MonkeyPatch]:
    """Make this process the laptop's Jupyter."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        yield patch


class Warm:
    """Keeps a remote kernel for several tests."""

    def __init__(self, made: Lab) -> None:
        self._made = made
        self._opened = ExitStack()
        self._kernel: Kernel | None = None

    def get(self) -> Kernel:
        if self._kernel is None:
            self._kernel = self._opened.enter_context(started("openhcs-lab"))
            linked(self._kernel)
        return self._kernel

    def close(self) -> None:
        """End the kernel; nothing of it is left on either side."""
        self._kernel = None
        self._opened.close()
        until_nothing_is_left(self._made)


@pytest.fixture(scope="module")
def warm(made: Lab, at_laptop: pytest.MonkeyPatch) -> Iterator[Warm]:
    warm = Warm(made)
    yield warm
    warm.close()


@pytest.fixture
def kernel(warm: Warm, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A remote kernel with a line to it, in which earlier tests have run; after one that failed, another kernel."""
    before = request.session.testsfailed
    yield warm.get()
    if request.session.testsfailed != before:
        warm.close()


@pytest.fixture
def start(warm: Warm, made: Lab) -> Iterator[Callable[[str], Kernel]]:
    """Return a function that starts a kernel by its name; no other one runs, and in the end nothing is left."""
    warm.close()
    with ExitStack() as opened:
        yield lambda name: opened.enter_context(started(name))
    until_nothing_is_left(made)


def linked(kernel: Kernel) -> None:
    until(lambda: kernel.manager.provisioner.tunnel.is_linked, "the line to the kernel", 30)


def until_nothing_is_left(made: Lab) -> None:
    until(lambda: not made.left(), "the end of all processes", 15)
    assert not list((made.home / "jupyter" / "runtime").glob("*"))
    assert not list((made.laptop / "run" / "openhcs-jupyter").glob("remote-*"))
