"""A window on a kernel in another process, over encrypted TCP; and the viewer as a plugin of napari."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from openhcs_jupyter.engine import Run
from openhcs_jupyter.streaming import RemoteSource
from openhcs_jupyter.streaming.keys import ConnectionFile, Endpoint, read_private
from tests.streaming.heard import digest
from tests.streaming.network import KERNEL_ADDRESS, can_make_networks, network
from tests.streaming.test_network import DELAY_S, said
from tests.viewer.screen import OpenWindow, application


class Kernel:
    """A process that serves a run to viewers."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run = folder, run
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.streaming.sides",
            "kernel",
            str(self.folder),
            "127.0.0.1",
            str(self.run),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "ready" in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def source(self) -> RemoteSource:
        file = read_private(self.folder / "connection.json", ConnectionFile)
        return RemoteSource(file.endpoints[1], server_key=file.server_key, keys=file.viewer, mapping=False)


@pytest.fixture
def kernel(finished: Run, tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path / "kernel", finished.folder)
    yield kernel
    kernel.kill()


def test_a_window_outlives_its_kernel_and_catches_up_with_the_next_one(
    kernel: Kernel, finished: Run, open_window: Callable[..., OpenWindow]
) -> None:
    window = open_window(kernel.source())
    window.until(lambda: len(window.viewer.layers) == 6, "all layers")
    window.until(lambda: "Connected" in window.panel.link_text, "the connection in the panel")

    def shows(well: str, field: int) -> bool:
        expected = finished.image("max_projection", well=well, field=field)[0, 0, 0]
        return np.array_equal(window.drawn("max_projection DAPI"), expected)

    window.session.go("A01", 1)
    window.until(lambda: shows("A01", 1), "the plane over the network")
    kernel.kill()
    window.until(lambda: "Connection lost" in window.panel.link_text, "the loss in the panel")
    assert shows("A01", 1)
    window.session.go("B03", 3)
    kernel.start()
    window.until(lambda: "Connected" in window.panel.link_text, "the next kernel")
    window.until(lambda: shows("B03", 3), "a plane of the next kernel")
    assert window.panel.runs.count() == 1
    assert len(window.viewer.layers) == 6


@pytest.mark.skipif(not can_make_networks(), reason="only root makes network namespaces, with ip and tc")
def test_a_window_behind_a_slow_link_shows_every_plane_and_stays_usable(
    finished: Run, tmp_path: Path, open_window: Callable[..., OpenWindow]
) -> None:
    with ExitStack() as opened:
        cable = opened.enter_context(network())
        cable.limit("100mbit")
        folder = str(tmp_path / "kernel")
        said(
            opened.enter_context(cable.started("kernel", "kernel", folder, KERNEL_ADDRESS, str(finished.folder))),
            "ready",
        )
        file = read_private(tmp_path / "kernel" / "connection.json", ConnectionFile)
        addresses = []
        # This process is on neither machine: it reaches the viewer's through sockets in the file system.
        sockets = Path(opened.enter_context(TemporaryDirectory(prefix="link")))
        for name, address in (("control", file.endpoints[1].control), ("news", file.endpoints[1].news)):
            place = str(sockets / name)
            words = ("relay", place, KERNEL_ADDRESS, address.rpartition(":")[2], DELAY_S)
            said(opened.enter_context(cable.started("viewer", *words)), "ready")
            addresses.append(f"ipc://{place}")
        endpoint = Endpoint(control=addresses[0], news=addresses[1])
        window = open_window(RemoteSource(endpoint, server_key=file.server_key, keys=file.viewer, mapping=False))
        window.until(lambda: len(window.viewer.layers) == 6, "all layers")
        window.session.go("B03", 4)
        window.until(lambda: window.drawn("max_projection DAPI").any(), "the first image, if only coarse")
        for well, field in (("B03", 4), ("A01", 1), ("A02", 3), ("B01", 2)):
            window.session.go(well, field)
            window.until_painted()
            projection = finished.image("max_projection", well=well, field=field)[0, :, 0]
            for plane, channel in zip(projection, ("DAPI", "GFP"), strict=True):
                assert digest(window.drawn(f"max_projection {channel}")) == digest(plane)
            labels = finished.labels("nuclei", well=well, field=field)[0, 0, 0]
            np.testing.assert_array_equal(window.drawn("nuclei"), labels)
        window.session.arrange("well")
        window.until_painted()
        window.keep_screenshot("slow-link")
        window.close()


@pytest.fixture
def plugin(screen: str) -> None:
    """The plugin as napari finds it where the package is installed."""
    import npe2

    import openhcs_jupyter.viewer

    manager = npe2.PluginManager.instance()
    manager.discover()
    if "openhcs-jupyter" not in manager:
        assert openhcs_jupyter.viewer.__file__ is not None
        manager.register(npe2.PluginManifest.from_file(Path(openhcs_jupyter.viewer.__file__).with_name("napari.yaml")))


@pytest.mark.usefixtures("plugin")
def test_napari_opens_a_run_folder_and_docks_the_panel(finished: Run) -> None:
    import napari

    from openhcs_jupyter.viewer import ViewerSession

    app = application()
    viewer = napari.Viewer()
    try:
        assert viewer.open(str(finished.folder), plugin="openhcs-jupyter") == []
        session = ViewerSession.of(viewer)
        session.settle()
        assert "nuclei" in viewer.layers
        _, panel = viewer.window.add_plugin_dock_widget("openhcs-jupyter", "OpenHCS")
        assert panel is session.panel
        session.settle()
        assert panel.isVisibleTo(viewer.window._qt_window)
    finally:
        viewer.close()
        session.close()
        session.wait_closed(10)
        app.processEvents()


@pytest.mark.usefixtures("plugin")
def test_the_panel_in_an_empty_window_opens_a_folder_and_refuses_others(
    finished: Run, tmp_path: Path, open_window: Callable[..., OpenWindow]
) -> None:
    from openhcs_jupyter.viewer.plugin import get_reader

    assert get_reader(str(tmp_path)) is None
    assert get_reader(str(finished.folder)) is not None
    window = open_window()
    window.panel.folder_chosen.emit(str(tmp_path))
    assert "neither a run's folder" in window.panel.link_text
    window.panel.folder_chosen.emit(str(finished.folder))
    window.until(lambda: len(window.viewer.layers) == 6, "all layers")
