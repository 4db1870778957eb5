"""A remote kernel opens the viewer where its user sits, through its tunnel."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import psutil
import pytest

from tests.engine.bench import until
from tests.jupyter import Kernel
from tests.kernel.lab import Lab, can_serve, started
from tests.viewer.screen import ARTEFACTS, grab, start_xvfb

pytestmark = pytest.mark.skipif(
    not can_serve() or shutil.which("Xvfb") is None, reason="OpenSSH's server or Xvfb is not installed"
)

VIEWERS = "print(get_ipython()._openhcs_state.viewing._server.viewers)"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, at_laptop: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A screen of the laptop's."""
    with start_xvfb(lasting=True) as screen:
        for name, value in screen.items():
            monkeypatch.setenv(name, value)
        yield screen


def viewers(made: Lab) -> list[psutil.Process]:
    return made.named("openhcs_jupyter.cli viewer")


def test_the_viewer_opens_here_and_outlives_cuts_and_restarts(made: Lab, screen: dict[str, str]) -> None:
    with started("openhcs-lab") as kernel:
        until(lambda: kernel.manager.provisioner.tunnel.is_linked, "the line to the kernel", 15)
        kernel.run("%openhcs connect demo", timeout=120)
        told = kernel.run(
            "%%openhcs seen --plate 1 --wells A01:A02 --view\npipeline_steps = [Step(max_projection, save=True)]",
            batch=False,
            timeout=120,
        )
        assert not told.error
        assert "seen is shown in the viewer on your machine." in told.text
        _until_watched(kernel)
        assert len(viewers(made)) == 1
        ARTEFACTS.mkdir(exist_ok=True)
        until(lambda: _bright(screen) > 0.02, "the image on the screen", 60)
        assert "is shown" in kernel.run("%openhcs view", batch=False).text
        assert len(viewers(made)) == 1
        made.cut()
        until(lambda: not kernel.manager.provisioner.tunnel.is_linked, "the cut to be noticed", 10)
        _until_watched(kernel)
        kernel.manager.restart_kernel()
        kernel.client.wait_for_ready(timeout=60)
        _until_watched(kernel)
        window = viewers(made)[0]
        window.kill()
        until(lambda: not viewers(made), "the end of the window")
        kernel.run("%openhcs connect demo", timeout=120)
        # A window that was killed takes a moment to be gone, and until then it counts as open.
        until(lambda: _asked_again(kernel) and len(viewers(made)) == 1, "the next window")
        until(lambda: _bright(screen) > 0.02, "the image in the next window", 60)
    assert [each.name() for each in made.left() if each not in viewers(made)] == ["Xvfb"]
    for each in viewers(made):
        each.kill()


def _asked_again(kernel: Kernel) -> bool:
    return "is shown" in kernel.run("%openhcs view", batch=False, timeout=60).text


def _until_watched(kernel: Kernel) -> None:
    told: list[str] = []
    until(lambda: told.append(kernel.run(VIEWERS).text.strip()) or told[-1] == "1", "the window", 60)


def _bright(screen: dict[str, str]) -> float:
    picture = grab(screen, ARTEFACTS / "remote-kernel-viewer.png")
    return float((picture[150:800, 350:1000].max(axis=2) > 150).mean())
