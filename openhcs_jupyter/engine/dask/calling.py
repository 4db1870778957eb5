"""How functions of this package are called in Dask's workers, also in those that lack it."""

from __future__ import annotations

from typing import Any


def call_there(module: str, function: str, *arguments: Any) -> Any:
    """Call a function by its name; an error if the module is not there.

    Dask sends this function as it is. Sent as a reference to this package, it would end every worker that cannot
    import the package, as Dask's workers end when they cannot read what they are sent.
    """
    import importlib

    return getattr(importlib.import_module(module), function)(*arguments)


call_there.__module__ = "__main__"
