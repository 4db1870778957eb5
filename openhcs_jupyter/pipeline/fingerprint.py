"""Fingerprints: the identity of functions and parameters by what they do, not by where or how they are written."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from openhcs_jupyter.pipeline._identity.kinds import take
from openhcs_jupyter.pipeline._identity.walk import SIZE, FingerprintError, Walk
from openhcs_jupyter.pipeline._packages import distribution

__all__ = ["FingerprintError", "combine", "fingerprint", "fingerprint_value", "package_versions"]

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def fingerprint(function: object, params: Mapping[str, Any] | None = None) -> str:
    """Identify a function with its parameters by everything that its result depends on, inputs aside.

    That is its bytecode without line numbers and docstrings, its defaults, its closure, the globals that it refers to
    (functions and classes of the user followed to any depth), the version of each installed package that it names, and
    the minor version of Python. Comments, docstrings, the place of the code and the hash seed do not matter.

    Parameters
    ----------
    function
        A function, method, partial, class or callable object, or a reducer.
    params
        Its parameters; their order does not matter.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    FingerprintError
        If something that it refers to has no identity that can be told; names it.
    """
    walk = Walk(_name(function), take)
    walk.tag("call", _PYTHON)
    with walk.at("the function"):
        walk.value(function)
    for name, value in sorted((params or {}).items()):
        walk.tag("param", name)
        with walk.at(f"parameter {name!r}"):
            walk.value(value)
    return walk.hexdigest()


def fingerprint_value(value: object) -> str:
    """Identify a value by its content and type: ``1``, ``1.0`` and ``True`` differ, equal sets do not.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    FingerprintError
        If the value, or something in it, has no identity that can be told.
    """
    walk = Walk(None, take)
    walk.tag("value", _PYTHON)
    with walk.at("the value"):
        walk.value(value)
    return walk.hexdigest()


def combine(*parts: str | bytes | int) -> str:
    """Make one fingerprint of several parts; their order and their boundaries count.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    # The repr of such a tuple is unique: texts are quoted, and the types look different.
    return blake2b(repr(parts).encode(), digest_size=SIZE).hexdigest()


def package_versions(functions: Iterable[object]) -> dict[str, str]:
    """Return the version of Python and of each distribution whose code takes part in these functions.

    Parameters
    ----------
    functions
        As `fingerprint` takes them.

    Raises
    ------
    FingerprintError
        As `fingerprint` does.
    """
    packages: set[str] = set()
    for function in functions:
        walk = Walk(_name(function), take)
        with walk.at("the function"):
            walk.value(function)
        packages |= walk.packages
    found = {distribution(package) for package in packages}
    return {"python": platform.python_version(), **{one.name: one.version for one in sorted(found)}}


def _name(function: object) -> str:
    return str(
        getattr(function, "__name__", None)
        or getattr(getattr(function, "func", None), "__name__", None)
        or type(function).__name__
    )
