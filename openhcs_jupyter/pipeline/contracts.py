"""What a function says of itself: its kind, the stack it takes, the memory it needs, its kernels for other arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import Component, PixelGrid

FunctionKind = Literal["image", "measure", "table", "reducer"]
MemoryType = Literal["numpy", "cupy"]
"""Kinds of array: in the memory of the machine, or of a GPU."""
F = TypeVar("F", bound=Callable[..., Any])

ATTRIBUTE = "__openhcs__"
KERNELS = "__openhcs_kernels__"
NUMPY: tuple[MemoryType, ...] = ("numpy",)
EVERY: tuple[MemoryType, ...] = ("numpy", "cupy")
"""Of a function that is written to the array API standard, or with what arrays of all kinds do themselves."""


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a function before it is called."""

    kind: FunctionKind | None = None
    """None: an undecorated function, whose kind shows in what it takes and returns."""
    stack: Component | None = None
    """The component along which it wants its stack; None leaves it to the step, which takes z."""
    depth: Literal["same", "one", "any"] = "any"
    """Planes it returns: as many as it takes, one, or unknown before it is called."""
    dtype: str | None = None
    """Pixel type that it returns: ``same``, a NumPy name, or None where it is unknown."""
    need: float = 4.0
    """Memory it uses at its peak beyond its input, as a factor of its input's bytes."""
    over: Literal["field", "well", "plate"] | None = None
    """Of a table function: over what its tables reach."""
    memory: tuple[MemoryType, ...] = NUMPY
    """Kinds of array that it takes itself; `kernel_for` gives it others."""
    by_plane: bool = False
    """Each plane of its result depends on that plane alone, so that a stack may be done in parts."""
    grid: Callable[[Mapping[str, Any]], PixelGrid | None] | None = None
    """Of an image function that changes size or place of the pixels: tells from its parameters, defaults included, how
    they lie over those that it takes; None where no grid of squares says it."""


UNKNOWN = Contract()


def contract_of(function: Callable[..., Any]) -> Contract:
    """Return the contract of a function, or of a class that is a reducer; an undecorated function's is unknown."""
    while isinstance(function, functools.partial) and not hasattr(function, ATTRIBUTE):
        function = function.func
    declared: Contract | None = getattr(function, ATTRIBUTE, None)
    if declared is not None:
        return declared
    return Contract(kind="reducer") if is_reducer(function) else UNKNOWN


def image(
    *,
    stack: Component | None = None,
    depth: Literal["same", "one", "any"] = "any",
    dtype: str | None = None,
    need: float = 4.0,
    memory: tuple[MemoryType, ...] = NUMPY,
    by_plane: bool = False,
    grid: Callable[[Mapping[str, Any]], PixelGrid | None] | None = None,
) -> Callable[[F], F]:
    """Declare an image function: ``(N, Y, X)`` -> ``(M, Y, X)``, then its outputs. Parameters as in `Contract`.

    Examples
    --------
    >>> @image(grid=lambda params: PixelGrid(factor=2))
    ... def every_other(stack):
    ...     "Leave out every other row and column."
    ...     return stack[:, ::2, ::2]
    """
    return _mark(
        Contract(
            kind="image", stack=stack, depth=depth, dtype=dtype, need=need, memory=memory, by_plane=by_plane, grid=grid
        )
    )


def measure(
    *, stack: Component | None = None, need: float = 4.0, memory: tuple[MemoryType, ...] = NUMPY
) -> Callable[[F], F]:
    """Declare a measure function: takes ``(N, Y, X)``, returns its outputs only. Parameters as in `Contract`."""
    return _mark(Contract(kind="measure", stack=stack, depth="same", dtype="same", need=need, memory=memory))


def table(*, over: Literal["field", "well", "plate"] = "plate") -> Callable[[F], F]:
    """Declare a table function: data frames in, data frames out, over a field, a well or the plate."""
    return _mark(Contract(kind="table", over=over))


class Kernel(NamedTuple):
    """What does the work of a function for one kind of array."""

    function: Callable[..., Any]
    need: float
    """As in `Contract`, on the device."""


def kernel_for(
    function: Callable[..., Any], memory: MemoryType = "cupy", *, need: float | None = None
) -> Callable[[F], F]:
    """Declare what does the work of `function` for another kind of array; it takes the same parameters.

    Parameters
    ----------
    function
        A declared function, which keeps the docstring and the contract for both.
    memory
        The kind of array that the kernel takes and returns.
    need
        Memory that it uses on the device, as in `Contract`; left out, that of the function.

    Examples
    --------
    >>> @image(depth="same", dtype="same")
    ... def inverted(stack):
    ...     "Turn dark into bright."
    ...     return stack.max() - stack
    >>> @kernel_for(inverted)
    ... def _(stack):
    ...     return stack.max() - stack
    """

    def mark(own: F) -> F:
        known = vars(function).setdefault(KERNELS, {})
        known[memory] = Kernel(own, contract_of(function).need if need is None else need)
        return own

    return mark


def kernel_of(function: Callable[..., Any], memory: MemoryType) -> Kernel | None:
    """Return what does the work of a function for a kind of array: a kernel, or itself; None where nothing does."""
    if isinstance(function, functools.partial) and not hasattr(function, ATTRIBUTE):
        inner = kernel_of(function.func, memory)
        if inner is None:
            return None
        return Kernel(functools.partial(inner.function, *function.args, **function.keywords), inner.need)
    if (found := getattr(function, KERNELS, {}).get(memory)) is not None:
        own: Kernel = found
        return own
    contract = contract_of(function)
    return Kernel(function, contract.need) if memory in contract.memory else None


def _mark(contract: Contract) -> Callable[[F], F]:
    def mark(function: F) -> F:
        try:
            setattr(function, ATTRIBUTE, contract)
        except AttributeError:
            raise UsageError(
                f"{function!r} cannot be declared: it takes no attributes",
                "Declare a function of your own that calls it.",
            ) from None
        return function

    return mark


@runtime_checkable
class Reducer(Protocol):
    """What needs a whole plate without holding it. A step takes an instance, or a class that it calls with its params.

    ``update`` is called for every stack of every field, anywhere; states are merged in a fixed order, so that results
    do not depend on timing. A state must survive `pickle`.
    """

    def init(self) -> Any:
        """Return the empty state."""

    def update(self, state: Any, stack: Any) -> Any:
        """Return the state with one stack ``(N, Y, X)`` taken in."""

    def merge(self, state: Any, other: Any) -> Any:
        """Return one state that stands for both."""

    def finish(self, state: Any) -> Any:
        """Return the outputs: one value, or a tuple of as many as the step names."""


def is_reducer(function: object) -> bool:
    """Tell whether an object, or the class's instances, have the four methods of a `Reducer`."""
    return all(callable(getattr(function, name, None)) for name in ("init", "update", "merge", "finish"))


class Context(NamedTuple):
    """Where a call's stack comes from; handed to functions that have a parameter ``context``."""

    plate: str
    well: str
    field: int | None
    """Counted from 1; None where the stack runs along fields."""
    channel: str | None
    """None where the stack runs along channels."""
    channels: tuple[str, ...]
    """Names of the stack's planes where it runs along channels, else of the one channel."""
    t: int | None
    z: tuple[int, ...]
    """Slices of the stack's planes, from 0."""
    pixel_size_um: float | None
    """Of the pixels that the function is given: earlier steps may have made others of the recorded ones."""
    z_step_um: float | None
    positions_um: tuple[tuple[float, float] | None, ...]
    """Stage position ``(y, x)`` of the centre of the recorded field, or of each field of the stack."""
    fields: tuple[int, ...] = ()
    """Numbers of the fields that `positions_um` are of."""
    t_step_s: float | None = None
    """Seconds from one time point to the next."""
