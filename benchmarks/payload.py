"""What is sent of a pipeline to the execution server, against its steps pickled by value."""

from __future__ import annotations

import linecache
from typing import Any

import cloudpickle
import msgspec

from benchmarks.pipelines import with_standard_functions
from openhcs_jupyter.door.payload import Code, code_of_steps
from openhcs_jupyter.pipeline import Step

NOTEBOOK = '''
import cv2
import numpy as np
from scipy import ndimage

LOW, HIGH = 1.0, 99.0
RADIUS = 20


def normalized(stack, low=LOW, high=HIGH):
    """Stretch a stack between two of its percentiles."""
    bottom, top = np.percentile(stack, (low, high))
    scaled = (stack.astype(np.float32) - bottom) / max(top - bottom, 1e-6)
    return (np.clip(scaled, 0, 1) * 65535).astype(np.uint16)


def blurred(stack, sigma=1.0):
    return np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in stack])


def disk(radius):
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def without_background(stack, radius=RADIUS, downsample=4):
    """Take away what is wider than a disk."""
    kernel = disk(radius // downsample)
    made = []
    for plane in stack:
        small = cv2.resize(plane, None, fx=1 / downsample, fy=1 / downsample, interpolation=cv2.INTER_AREA)
        below = cv2.morphologyEx(small, cv2.MORPH_OPEN, kernel)
        wide = cv2.resize(below, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        made.append(cv2.subtract(plane, wide))
    return np.stack(made)


def projected(stack):
    return stack.max(axis=0, keepdims=True)


def composed(stack, weights=(0.5, 0.5)):
    return np.average(stack.astype(np.float32), axis=0, weights=weights)[None].astype(np.uint16)
'''
"""The reference pipeline as a user writes it who has the functions in the notebook."""


def in_a_notebook() -> list[Step]:
    """Make the reference pipeline of functions that belong to ``__main__``."""
    names: dict[str, Any] = {"__name__": "__main__"}
    filename = "<notebook>"
    linecache.cache[filename] = (len(NOTEBOOK), None, NOTEBOOK.splitlines(keepends=True), filename)
    exec(compile(NOTEBOOK, filename, "exec", dont_inherit=True), names)
    normalize = names["normalized"]
    preprocess = {
        "DAPI": [normalize, (names["blurred"], {"sigma": 1.0})],
        "GFP": [normalize, (names["without_background"], {"radius": 20, "downsample": 4})],
    }
    return [Step(preprocess), Step(names["projected"]), Step(names["composed"], stack="channel", save=True)]


def importable() -> list[Step]:
    """Make the reference pipeline of the standard functions, which both sides have."""

    class _Plate:
        channels = tuple(type("Channel", (), {"name": name}) for name in ("DAPI", "GFP"))

    return list(with_standard_functions(_Plate()).steps)


def payload_figures() -> dict[str, float]:
    """Compare the bytes that are sent with those of the steps pickled by value, for both kinds of functions."""
    figures = {}
    for kind, steps in (("", in_a_notebook()), ("_importable", importable())):
        pickled = len(cloudpickle.dumps(steps, protocol=5))
        sent = len(msgspec.msgpack.encode(_sent(code_of_steps(steps))))
        figures[f"payload_vs_cloudpickle{kind}"] = pickled / sent
        figures[f"payload_bytes{kind}"] = float(sent)
        figures[f"cloudpickle_bytes{kind}"] = float(pickled)
    return figures


def _sent(code: Code) -> dict[str, Any]:
    """Return what of the code travels: the cell only once."""
    return {"cell": code.cell, "before": code.before, "modules": code.modules}
