"""Functions as users write them."""

from __future__ import annotations

from typing import Any

from openhcs_jupyter.pipeline import Context, image, measure, table


@image(depth="same", need=2.0)
def blur(stack: Any, sigma: float = 1.0) -> Any:
    return stack * sigma


@image(depth="one", need=1.0)
def project(stack: Any) -> Any:
    return stack.max(axis=0, keepdims=True)


@image(stack="channel", depth="one")
def mix(stack: Any) -> Any:
    return stack[:1]


@image(depth="same")
def segment(stack: Any, size: int = 10) -> Any:
    return stack, stack > size


@measure()
def count(stack: Any, labels: Any = None) -> Any:
    return {"objects": [int(stack.max())]}


@measure()
def locate(stack: Any, context: Context) -> Any:
    return {"y": [context.positions_um]}


@table(over="field")
def per_field(objects: Any) -> Any:
    return objects


@table(over="well")
def per_well(objects: Any) -> Any:
    return objects


@table(over="plate")
def per_plate(objects: Any) -> Any:
    return objects


def plain(stack: Any, amount: int = 1) -> Any:
    return stack + amount


def plain_table(objects: Any, digits: int = 2) -> Any:
    return objects.round(digits)


def correct(stack: Any, mean: Any) -> Any:
    return stack - mean


class MeanImage:
    def __init__(self, power: int = 1) -> None:
        self.power = power

    def init(self) -> Any:
        return 0

    def update(self, state: Any, stack: Any) -> Any:
        return state + stack.sum(axis=0)

    def merge(self, state: Any, other: Any) -> Any:
        return state + other

    def finish(self, state: Any) -> Any:
        return state
