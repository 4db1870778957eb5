"""Whose code a module is, and the version of what it is part of."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib.machinery import ModuleSpec
from typing import Any, Literal, NamedTuple

Place = Literal["stdlib", "installed", "own", "user"]
OWN = __name__.partition(".")[0]
_FUNCTIONS = f"{OWN}.functions"


class Distribution(NamedTuple):
    """An installed distribution."""

    name: str
    version: str


_UNLIKE = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
"""Distributions not named like their package; for all others the whole environment is read, which takes a third of a
second."""


@functools.cache
def distribution(package: str) -> Distribution:
    """Find the distribution that holds a top-level package, without importing the package."""
    if package == OWN:
        return Distribution("openhcs-jupyter", str(module_dict(sys.modules[OWN])["__version__"]))
    name = _UNLIKE.get(package, package)
    if version := _listed(name):
        return Distribution(name, version)
    import importlib.metadata

    try:
        return Distribution(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        pass
    if package not in sys.modules and _spec(package) is None:
        return Distribution(package, "unknown")
    if names := _packages().get(package):
        return Distribution(names[0], importlib.metadata.version(names[0]))
    version = module_dict(sys.modules[package]).get("__version__") if package in sys.modules else None
    return Distribution(package, str(version or "unknown"))


def _listed(name: str) -> str | None:
    """Read a version off the name of its folder, as that says all: `importlib.metadata` takes 30 ms the first time.

    None where that is not sure; `importlib.metadata` is asked then.
    """
    wanted = _plain(name)
    for path in sys.path:
        with suppress(OSError):  # what is no folder holds none
            for entry in os.listdir(path or "."):  # noqa: PTH208 - names alone, of hundreds
                if entry.endswith((".dist-info", ".egg-info")):
                    found, _, version = entry[:-10].partition("-")
                    if _plain(found) == wanted:
                        return version if entry.endswith(".dist-info") and _SURE.fullmatch(version) else None
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


_SURE = re.compile(r"[0-9a-z.+]+")
"""Of versions that stand in a folder's name as they are."""


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    import importlib.metadata

    return importlib.metadata.packages_distributions()


class OwnModule(NamedTuple):
    """The identity of one of this package's modules."""

    digest: str
    packages: frozenset[str]
    """Top-level packages that it imports."""


@functools.cache
def own_module(name: str) -> OwnModule:
    """Identify a module of this package: the version, its file and those of the standard functions that it imports."""
    files: list[bytes] = []
    packages: set[str] = set()
    todo, seen = [name], {name}
    while todo:
        spec = importlib.util.find_spec(todo.pop(0))
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        text = pathlib.Path(spec.origin).read_bytes()
        files.append(text)
        for imported in _imports(text.decode(), spec.name if spec.submodule_search_locations else spec.parent or ""):
            top = imported.partition(".")[0]
            if top == OWN:
                if imported.startswith(_FUNCTIONS) and imported not in seen:
                    seen.add(imported)
                    todo.append(imported)
            elif top not in sys.stdlib_module_names:
                packages.add(top)
    digest = blake2b(repr((distribution(OWN).version, files)).encode(), digest_size=16)
    return OwnModule(digest.hexdigest(), frozenset(packages))


_CHECKED = re.compile(r"^( *)if TYPE_CHECKING:\n(?:\1 .*\n|\n)*", re.MULTILINE)
_IMPORT = re.compile(
    r"^ *(?:import (?P<module>[\w.]+)|from (?P<base>[\w.]+) import (?:\((?P<many>[^)]*)\)|(?P<few>[^\n#]*))"
    r"|\w+ = lazy\w*\.load\(\"(?P<lazy>[\w.]+)\")",
    re.MULTILINE,
)


def _imports(text: str, package: str) -> Iterator[str]:
    """Find what one of this package's modules imports, but for type checkers only.

    Parsing it would take longer than all the rest of a fingerprint; what is looked at is as ruff writes it.
    """
    for found in _IMPORT.finditer(_CHECKED.sub("", text)):
        base = found["base"]
        if not base:
            yield found["module"] or found["lazy"]
            continue
        if base.startswith("."):
            base = importlib.util.resolve_name(base, package)
        yield base
        if base.startswith(OWN):
            names = (name.split()[0] for name in (found["many"] or found["few"] or "").split(",") if name.split())
            yield from (f"{base}.{name}" for name in names if _is_module(base, name))


def _is_module(package: str, name: str) -> bool:
    spec = importlib.util.find_spec(package)
    return bool(spec and spec.submodule_search_locations and importlib.util.find_spec(f"{package}.{name}"))


@functools.cache
def _installed() -> tuple[str, ...]:
    import sysconfig  # takes 2 ms, and most paths tell without it

    return tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})


@functools.cache
def place_of(module: str) -> Place:
    """Tell whose code a module is; what is neither Python's nor installed is the user's."""
    top = module.partition(".")[0]
    if top == OWN:
        return "own"
    if top == "__main__":
        return "user"
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return "stdlib"
    namespace: dict[str, Any] = module_dict(sys.modules[top]) if top in sys.modules else {"__spec__": _spec(top)}
    spec = namespace.get("__spec__")
    origin = getattr(spec, "origin", None) or namespace.get("__file__")
    folders = [origin] if origin else list(getattr(spec, "submodule_search_locations", None) or ())
    if any(
        "site-packages" in folder or "dist-packages" in folder or folder.startswith(_installed()) for folder in folders
    ):
        return "installed"
    return "user"


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def module_dict(module: types.ModuleType) -> dict[str, Any]:
    """Return a module's namespace without loading a lazy module, as asking it for an attribute would."""
    namespace: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return namespace


def holder_of(value: types.BuiltinFunctionType) -> str:
    """Find the module of a function that does not tell it, as OpenCV's do not."""
    # Not all that stands there is a module: cffi's libraries are not, though they say so of their class.
    modules = [(name, one) for name, one in list(sys.modules.items()) if issubclass(type(one), types.ModuleType)]
    holders = (name for name, module in modules if module_dict(module).get(value.__name__) is value)
    return min(holders, key=lambda name: (len(name), name), default="builtins")


def found_at(module: str, name: str) -> object:
    """Return what a loaded module has under a dotted name, or None."""
    value: object = sys.modules.get(module)
    for part in name.split("."):
        value = inspect.getattr_static(value, part, None) if isinstance(value, type) else getattr(value, part, None)
    return value
