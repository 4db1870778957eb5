"""The notebook that shows the viewer, executed as a batch does, on a screen of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest

from tests.viewer.screen import ARTEFACTS, start_xvfb

_NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "07_viewer.ipynb"


def test_the_viewer_is_shown_with_a_run(tmp_path: Path) -> None:
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    environment = {
        **os.environ,
        "OPENHCS_DATA_DIR": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "JUPYTER_PATH": str(tmp_path / "prefix" / "share" / "jupyter"),
    }
    install = [sys.executable, "-m", "openhcs_jupyter.cli", "install", "--prefix", str(tmp_path / "prefix")]
    subprocess.run(install, env=environment, check=True, capture_output=True)
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    command += ["--KernelManager.transport_encryption=auto", "--ExecutePreprocessor.kernel_name=openhcs"]
    command += ["--output-dir", str(tmp_path), str(_NOTEBOOK)]
    with start_xvfb() as screen:
        done = subprocess.run(command, env={**environment, **screen}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(tmp_path / _NOTEBOOK.name, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})][-3:]
    assert len(pictures) == 3
    ARTEFACTS.mkdir(exist_ok=True)
    for name, picture in zip(("field", "well", "plate"), pictures, strict=True):
        (ARTEFACTS / f"notebook-viewer-{name}.png").write_bytes(picture)
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert (pixels.max(axis=2) > 60).mean() > 0.005, name
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "max_projection DAPI (1, 1, 1, 1," in printed
