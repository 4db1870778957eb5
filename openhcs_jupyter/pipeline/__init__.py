"""What a user writes: steps, their outputs, and what functions say of themselves."""

from __future__ import annotations

from openhcs_jupyter.model import PixelGrid
from openhcs_jupyter.pipeline.contracts import Context, Contract, Reducer, image, kernel_for, measure, table
from openhcs_jupyter.pipeline.openhcs import AdaptedSteps, FunctionStep, adapt, function_step, is_function_step
from openhcs_jupyter.pipeline.outputs import ImageOutput, Labels, Points, Table
from openhcs_jupyter.pipeline.step import Pipeline, Step, ViewRequest

__all__ = [
    "AdaptedSteps",
    "Context",
    "Contract",
    "FunctionStep",
    "ImageOutput",
    "Labels",
    "Pipeline",
    "PixelGrid",
    "Points",
    "Reducer",
    "Step",
    "Table",
    "ViewRequest",
    "adapt",
    "function_step",
    "image",
    "is_function_step",
    "kernel_for",
    "measure",
    "table",
]
