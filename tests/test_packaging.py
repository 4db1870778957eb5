"""What is handed out: the wheel has everything that it needs, and works where the checkout is not."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import openhcs_jupyter

_CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=_CHECKOUT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the packages that it needs from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    # After the wheel, whose own package is found first.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"openhcs_jupyter-{openhcs_jupyter.__version__}.dist-info/METADATA"))


def test_the_wheel_has_every_module_and_its_types(wheel: Path) -> None:
    package = _CHECKOUT / "openhcs_jupyter"
    modules = {str(path.relative_to(_CHECKOUT)) for path in package.rglob("*.py")}
    assets = {str(path.relative_to(_CHECKOUT)) for path in (package / "widgets" / "static").iterdir()}
    assert {"openhcs_jupyter/widgets/static/run.js", "openhcs_jupyter/widgets/static/theme.css"} <= assets
    assert modules | assets | {"openhcs_jupyter/py.typed"} <= _names(wheel)


def test_the_wheel_has_the_kernelspec_and_its_logos(wheel: Path) -> None:
    files = {path.name for path in (_CHECKOUT / "kernelspec").iterdir()}
    assert "kernel.json" in files
    assert {f"openhcs_jupyter/kernel/kernelspec/{name}" for name in files} <= _names(wheel)


def test_the_wheel_has_the_manifest_by_which_napari_finds_the_viewer(wheel: Path) -> None:
    assert "openhcs_jupyter/viewer/napari.yaml" in _names(wheel)


def test_the_wheel_has_nothing_but_the_package_and_its_metadata(wheel: Path) -> None:
    version = openhcs_jupyter.__version__
    assert {name.split("/")[0] for name in _names(wheel)} == {
        "openhcs_jupyter",
        f"openhcs_jupyter-{version}.dist-info",
    }
    assert not [name for name in _names(wheel) if "__pycache__" in name]


@pytest.mark.parametrize("room", ["compiler", "engine", "repository", "repository.omero", "topology"])
def test_public_names_stay_what_they_are_when_the_modules_are_imported_that_hold_them(room: str) -> None:
    code = f"""
import importlib, pkgutil, types
room = importlib.import_module("openhcs_jupyter.{room}")
names = room.__all__
assert names and not set(names) & {{module.name for module in pkgutil.iter_modules(room.__path__)}}
first = {{name: getattr(room, name) for name in names}}
for value in first.values():
    importlib.import_module(value.__module__)
assert first == {{name: getattr(room, name) for name in names}}
assert not any(isinstance(value, types.ModuleType) for value in first.values())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_metadata_tell_version_licence_and_extras(wheel: Path) -> None:
    version = openhcs_jupyter.__version__
    assert f"openhcs_jupyter-{version}.dist-info/licenses/LICENSE" in _names(wheel)
    metadata = _metadata(wheel)
    assert metadata["Version"] == version
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"notebook", "test", "dev", "docs"} <= set(metadata.get_all("Provides-Extra"))


def test_every_package_that_is_imported_is_declared(wheel: Path) -> None:
    modules = set()
    for path in (_CHECKOUT / "openhcs_jupyter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    modules -= {*sys.stdlib_module_names, "openhcs_jupyter"}
    requirements = [Requirement(text) for text in _metadata(wheel).get_all("Requires-Dist")]
    names = ("", "cellpose", "dask", "gpu", "metrics", "notebook", "omero", "remote", "stardist", "viewer")
    extras = [{"extra": name} for name in names]
    declared = {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or any(one.marker.evaluate(extra) for extra in extras)
    }
    # What is not installed everywhere, and what does not say which modules it brings.
    providers = packages_distributions() | {
        "Glacier2": ["zeroc-ice"], "Ice": ["zeroc-ice"], "omero": ["omero-py"], "cupy": ["cupy-cuda12x"],
        "cellpose": ["cellpose"], "stardist": ["stardist"],
    }  # fmt: skip
    modules -= {"cellpose", "dask_cuda", "stardist"}  # used where people have them
    undeclared = {
        module for module in modules if not declared & {canonicalize_name(name) for name in providers.get(module, ())}
    }
    assert undeclared == set()


def test_the_installed_command_installs_a_kernelspec_that_starts_its_own_python(installed: Path) -> None:
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [installed / "bin" / "openhcs-jupyter", "install", "--prefix", installed],
        cwd=installed,
        env=elsewhere,
        check=True,
        capture_output=True,
    )
    kernel = installed / "share" / "jupyter" / "kernels" / "openhcs"
    spec = json.loads((kernel / "kernel.json").read_text())
    assert Path(spec["argv"][0]) == installed / "bin" / "python"
    assert spec["display_name"] == "OpenHCS"
    assert {"logo-64x64.png", "logo-svg.svg"} <= {path.name for path in kernel.iterdir()}


def test_the_installed_package_is_the_wheels_and_imports_nothing_heavy(installed: Path) -> None:
    program = (
        "import json, sys, openhcs_jupyter; "
        "print(json.dumps([openhcs_jupyter.__file__, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run(
        [installed / "bin" / "python", "-I", "-c", program], cwd=installed, check=True, capture_output=True, text=True
    )
    where, modules = json.loads(done.stdout)
    assert Path(where).is_relative_to(installed)
    assert not set(modules) & {
        "pandas",
        "cv2",
        "skimage",
        "scipy",
        "zarr",
        "pyarrow",
        "numba",
        "matplotlib",
        "IPython",
        "ipywidgets",
    }
