"""Fingerprints of what lies in modules: the user's own, packages, compiled code; and their versions."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import scipy.special

from openhcs_jupyter import functions as standard
from openhcs_jupyter.pipeline.fingerprint import fingerprint, package_versions
from tests.pipeline.cells import cell, identity


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Write the user's module ``mylab_filters`` and import it anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> None:
        (tmp_path / "mylab_filters.py").write_text(source)
        sys.modules.pop("mylab_filters", None)

    yield write
    sys.modules.pop("mylab_filters", None)


@pytest.mark.parametrize(
    "use",
    [
        "import mylab_filters\ndef f(x):\n    return mylab_filters.smooth(x)",
        "import mylab_filters as m\ndef f(x):\n    return m.smooth(x)",
        "from mylab_filters import smooth\ndef f(x):\n    return smooth(x)",
        "def f(x):\n    from mylab_filters import smooth\n    return smooth(x)",
        "def f(x):\n    import mylab_filters\n    return mylab_filters.smooth(x)",
        "import mylab_filters\nf = mylab_filters.smooth",
    ],
)
def test_a_module_of_the_user_counts_by_what_is_used_of_it(library: Callable[[str], None], use: str) -> None:
    source = (
        "import numpy as np\nWIDTH = 3\ndef _window(x):\n    return x[:WIDTH]\n"
        "def smooth(x):\n    return np.mean(_window(x))\n"
    )
    library(source)
    before = identity(use)
    library("# A comment.\n" + source)
    assert identity(use) == before
    library(source.replace("WIDTH = 3", "WIDTH = 4"))
    assert identity(use) != before
    library(source.replace("x[:WIDTH]", "x[WIDTH:]"))
    assert identity(use) != before


def test_what_is_not_used_of_a_users_module_does_not_count(library: Callable[[str], None]) -> None:
    use = "import mylab_filters\ndef f(x):\n    return mylab_filters.smooth(x)"
    library("def smooth(x):\n    return x\ndef other(x):\n    return 1\n")
    before = identity(use)
    library("def smooth(x):\n    return x\ndef other(x):\n    return 2\n")
    assert identity(use) == before


def test_functions_of_packages_count_by_name_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openhcs_jupyter.pipeline import _packages

    source = "import scipy.ndimage as ndi\ndef f(x):\n    return ndi.gaussian_filter(x, 2)"
    before = identity(source), fingerprint(scipy.ndimage.gaussian_filter)
    assert before == (identity(source), fingerprint(scipy.ndimage.gaussian_filter))
    assert fingerprint(scipy.ndimage.gaussian_filter) != fingerprint(scipy.ndimage.median_filter)
    known = _packages.distribution.__wrapped__  # type: ignore[attr-defined]  # the cache has it
    _packages.distribution.cache_clear()
    (tmp_path / "scipy-0.0.1.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert known("scipy").version == "0.0.1"
    try:
        assert identity(source) != before[0]
        assert fingerprint(scipy.ndimage.gaussian_filter) != before[1]
    finally:
        _packages.distribution.cache_clear()


def test_versions_are_those_that_python_tells_of_all_that_is_installed() -> None:
    from openhcs_jupyter.pipeline import _packages

    wanted = {one.name: importlib.metadata.version(one.name) for one in importlib.metadata.distributions()}
    assert wanted
    unkept = _packages.distribution.__wrapped__  # type: ignore[attr-defined]  # what functools.cache keeps is left out
    assert {name: unkept(name).version for name in wanted} == wanted


def test_a_version_that_its_folder_does_not_tell_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openhcs_jupyter.pipeline import _packages

    for folder, file in (("mylab_one-1.0_2.dist-info", "METADATA"), ("mylab_two.egg-info", "PKG-INFO")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(f"Metadata-Version: 2.1\nName: {folder[:9]}\nVersion: 1.0-2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _packages.distribution("mylab_one") == ("mylab_one", "1.0-2")
    assert _packages.distribution("mylab_two") == ("mylab_two", "1.0-2")


def test_the_environment_is_not_searched_for_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard functions name packages that few have; reading all that is installed takes a second."""
    from openhcs_jupyter.pipeline import _packages

    def searched() -> dict[str, list[str]]:
        raise AssertionError("all that is installed was read")

    monkeypatch.setattr("importlib.metadata.packages_distributions", searched)
    assert _packages.distribution("surely_not_installed") == ("surely_not_installed", "unknown")


def test_compiled_functions_of_every_kind() -> None:
    kinds = [
        cv2.GaussianBlur,
        scipy.special.erf,
        np.random.default_rng,
        np.sqrt,
        np.mean,
        np.float32,
        np.random.normal,
        np.add.reduce,
        np.linalg.norm,
        abs,
        str.upper,
    ]
    found = [fingerprint(kind) for kind in kinds]
    assert len(set(found)) == len(kinds)
    assert found == [fingerprint(kind) for kind in kinds]
    assert {"numpy", "scipy", "opencv-python-headless"} <= set(package_versions(kinds))


def test_numba_functions_count_by_their_code() -> None:
    source = "import numba\n@numba.njit\ndef helper(x):\n    return x + {}\ndef f(x):\n    return helper(x)"
    assert identity(source.format(1)) == identity(source.format(1))
    assert identity(source.format(1)) != identity(source.format(2))


def test_standard_functions_have_an_identity_each() -> None:
    found = {name: fingerprint(getattr(standard, name)) for name in standard.__all__}
    assert len(set(found.values())) == len(found)
    assert fingerprint(standard.top_hat, {"radius": 3}) != fingerprint(standard.top_hat, {"radius": 4})


def test_versions_of_the_packages_that_take_part(library: Callable[[str], None]) -> None:
    library("import pandas as pd\ndef read(x):\n    return pd.DataFrame(x)\n")
    f = cell(
        "import mylab_filters\nimport skimage.filters as filters\nimport json\nimport zarr",
        "def f(x):\n    import scipy.ndimage\n    return mylab_filters.read(filters.gaussian(x)), json",
    )["f"]
    found = package_versions([f])
    assert set(found) == {"python", "pandas", "scikit-image", "scipy"}
    assert found["pandas"] == pd.__version__
    assert found["python"] == sys.version.split()[0]


def test_versions_of_a_standard_function_name_what_it_is_made_with() -> None:
    found = package_versions([standard.gaussian_blur, functools.partial(hashlib.sha256)])
    assert {"openhcs-jupyter", "numpy"} <= set(found)
    assert "zarr" not in found


def test_what_standard_functions_import_is_what_a_parser_finds() -> None:
    from openhcs_jupyter.pipeline import _packages

    def parsed(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield str(node.module)
                whole = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (name for name in whole if name in modules)
            for part in ("body", "orelse", "handlers", "finalbody"):
                yield from parsed(getattr(node, part, []))

    root = Path(_packages.__file__).parents[1]
    files = {path: path.read_text() for path in root.rglob("*.py")}
    modules = {".".join((root.name, *path.relative_to(root).with_suffix("").parts)) for path in files}
    modules |= {name.removesuffix(".__init__") for name in modules}
    looked_at = [path for path in files if path.is_relative_to(root / "functions")]
    assert len(looked_at) > 30
    for path in looked_at:
        assert list(_packages._imports(files[path], "")) == list(parsed(ast.parse(files[path]).body)), path
