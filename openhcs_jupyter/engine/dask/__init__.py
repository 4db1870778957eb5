"""Runs a plan on dask.distributed: batches of units go to the cluster's workers, which write into the run store."""

from __future__ import annotations

from openhcs_jupyter.engine.dask.cluster import topology_of
from openhcs_jupyter.engine.dask.executor import DaskExecutor, executor_for

__all__ = ["DaskExecutor", "executor_for", "topology_of"]
