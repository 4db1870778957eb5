"""Pipelines written for OpenHCS: ``FunctionStep`` in both spellings, and OpenHCS's own objects, become steps."""

from __future__ import annotations

from openhcs_jupyter.pipeline.openhcs.adapting import AdaptedSteps, adapt
from openhcs_jupyter.pipeline.openhcs.steps import FunctionStep, function_step, is_function_step

__all__ = ["AdaptedSteps", "FunctionStep", "adapt", "function_step", "is_function_step"]
