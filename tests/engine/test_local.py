"""Worker processes on this machine do what any executor must do."""

from __future__ import annotations

import pytest

from openhcs_jupyter.engine import Executor, LocalExecutor
from tests.engine.conformance import ExecutorConformance


class TestLocalExecutor(ExecutorConformance):
    @pytest.fixture
    def executor(self) -> Executor:
        return LocalExecutor()
