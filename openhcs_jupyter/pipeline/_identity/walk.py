"""The walk of a fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline._identity.simple import SIMPLE
from openhcs_jupyter.pipeline._packages import OWN, distribution, own_module, place_of

SIZE = 16
_HINT = (
    "Hand over what it is made from as a parameter of the step (numbers, text, arrays, a file's path), "
    "or load it inside the function."
)


class FingerprintError(OpenHCSError):
    """A function or a parameter holds something whose identity cannot be told, such as an open file or a lock.

    Parameters
    ----------
    function
        Name of the function at fault, or None where a value was handed over alone.
    variable
        What in it is at fault: ``global 'model'``, ``parameter 'weights'``.
    value
        The object.
    """

    def __init__(self, function: str | None, variable: str, value: object) -> None:
        kind = type(value)
        what = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__
        where = f"{variable} of function {function!r}" if function else variable
        super().__init__(
            f"{where[:1].upper()}{where[1:]} is an object of type {what}, "
            "of which it cannot be told whether it changed between two runs",
            _HINT,
        )
        self.function = function
        self.variable = variable


class Walk:
    """Feeds a value, and everything it refers to, into one hash in an order that depends on the value alone."""

    __slots__ = ("function", "hash", "numbers", "open", "packages", "path", "take")

    def __init__(self, function: str | None, take: Callable[[Walk, Any], None], parent: Walk | None = None) -> None:
        self.function = function
        self.take = take
        """Takes in what is not simple, kind by kind: `kinds.take`."""
        self.hash = blake2b(digest_size=SIZE)
        self.path: list[str] = list(parent.path) if parent else []
        self.packages: set[str] = parent.packages if parent else set()
        self.numbers: dict[int, tuple[int, object]] = dict(parent.numbers) if parent else {}
        """Functions, classes and modules that were met, in their order; kept alive so that ids stay theirs."""
        self.open: dict[int, int] = dict(parent.open) if parent else {}
        """Containers that are being walked, with their depth."""

    def hexdigest(self) -> str:
        return self.hash.hexdigest()

    def at(self, where: str) -> _Where:
        return _Where(self.path, where)

    def tag(self, *parts: str | bytes | int) -> None:
        self.hash.update(repr(parts).encode())

    def data(self, buffer: bytes | memoryview) -> None:
        self.tag(len(buffer) if isinstance(buffer, bytes) else buffer.nbytes)
        self.hash.update(buffer)

    def fail(self, value: object) -> FingerprintError:
        named = [step for step in self.path if not step.startswith((".", "["))]
        last = max((index for index, step in enumerate(self.path) if step in named[-1:]), default=0)
        return FingerprintError(self.function, "".join(self.path[last:]) or "the value", value)

    def value(self, value: object) -> None:
        """Take in any value."""
        if (simple := SIMPLE.get(type(value))) is not None:
            self.tag(type(value).__name__, simple(value))
            return
        key = id(value)
        if (depth := self.open.get(key)) is not None:
            self.tag("cycle", len(self.open) - depth)
            return
        if (known := self.numbers.get(key)) is not None:
            self.tag("again", known[0])
            return
        if len(self.open) > 200:
            raise self.fail(value)
        self.open[key] = len(self.open)
        try:
            self.take(self, value)
        finally:
            del self.open[key]

    def apart(self, item: object) -> bytes:
        """Return the hash of an item by itself."""
        walk = Walk(self.function, self.take, self)
        walk.value(item)
        return walk.hash.digest()

    def number(self, value: object) -> None:
        """Remember a function, class or module, so that it is taken in once."""
        self.numbers[id(value)] = (len(self.numbers), value)

    def by_name(self, module: str, name: str) -> None:
        """Take in what a package offers under a name, by that and the package's version."""
        place = place_of(module)
        self.tag("named", module, name)
        top = module.partition(".")[0]
        if place == "own":
            own = own_module(module)
            self.tag(own.digest)
            self.packages |= {OWN, *own.packages}
            for package in sorted(own.packages):
                self.tag(*distribution(package))
        elif place == "installed":
            self.packages.add(top)
            self.tag(*distribution(top))


class _Where:
    """Remembers for an error message where a walk is."""

    __slots__ = ("path", "step")

    def __init__(self, path: list[str], step: str) -> None:
        self.path = path
        self.step = step

    def __enter__(self) -> None:
        self.path.append(self.step)

    def __exit__(self, *_: object) -> None:
        # Kept while an error travels: it was made with its path.
        self.path.pop()
