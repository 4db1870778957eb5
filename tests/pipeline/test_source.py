"""Source capture: a cell and what it takes from earlier cells, as one text that makes the same steps."""

from __future__ import annotations

import atexit
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline import Step
from openhcs_jupyter.pipeline.fingerprint import fingerprint, fingerprint_value
from openhcs_jupyter.pipeline.source import SourceError, capture


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for module in ("__main__", "builtins"):
        monkeypatch.setitem(sys.modules, module, sys.modules[module])
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config)
    known = dict(linecache.cache)
    yield shell
    linecache.cache.clear()
    linecache.cache.update(known)
    shell.restore_sys_module_state()
    atexit.unregister(shell.atexit_operations)


@pytest.fixture
def notebook(shell: InteractiveShell) -> Callable[..., str]:
    """Run cells, capture the last one."""

    def run(*cells: str) -> str:
        for text in cells:
            shell.run_cell(dedent(text), store_history=True).raise_error()
        return capture(dedent(cells[-1]), shell.user_ns)

    return run


def again(text: str) -> dict[str, Any]:
    """Run a captured text as the one cell of a fresh namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, "<captured>", "exec", dont_inherit=True), namespace)
    return namespace


def identities(steps: list[Step]) -> list[str]:
    found: list[str] = []
    for step in steps:
        calls = step.function if isinstance(step.function, list) else [step.function]
        found += [fingerprint(call, step.params) for call in calls]
        found.append(fingerprint_value([step.name, step.stack, step.channel, step.inputs, step.outputs, step.save]))
    return found


def check(shell: InteractiveShell, text: str) -> dict[str, Any]:
    fresh = again(text)
    assert identities(fresh["pipeline_steps"]) == identities(shell.user_ns["pipeline_steps"])
    return fresh


CELL = """
pipeline_steps = [Step(f, {"low": 2})]
"""


def test_imports_functions_helpers_and_constants_of_earlier_cells(
    shell: InteractiveShell, notebook: Callable[..., str]
) -> None:
    text = notebook(
        "import numpy as np\nfrom openhcs_jupyter import Step, Labels\nimport json",
        "GAIN = 2.5\nUNUSED = object()",
        "def helper(x):\n    # Why it is so.\n    return np.sqrt(x) * GAIN",
        "def unused(x):\n    return json",
        "def f(x, low=1):\n    return helper(x) - low",
        CELL,
    )
    check(shell, text)
    assert "# Why it is so." in text
    assert "unused" not in text
    assert "json" not in text
    assert text.endswith(CELL)


def test_a_function_that_was_redefined_is_captured_as_it_is_now(
    shell: InteractiveShell, notebook: Callable[..., str]
) -> None:
    text = notebook(
        "from openhcs_jupyter import Step",
        "def helper(x):\n    return 1",
        "def f(x, low):\n    return helper(x)",
        "def helper(x):\n    return 2",
        CELL,
    )
    check(shell, text)
    assert "return 2" in text
    assert "return 1" not in text


def test_what_the_cell_defines_itself_is_there_once(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from openhcs_jupyter import Step",
        "import numpy as np\nLOW = 3\ndef f(x, low):\n    return np.sum(x) + LOW\n" + CELL,
    )
    check(shell, text)
    assert text.count("def f") == text.count("import numpy") == 1


def test_a_cell_that_needs_nothing_is_itself(notebook: Callable[..., str]) -> None:
    cell = "from openhcs_jupyter import Step\npipeline_steps = []\n"
    assert notebook(cell) == cell


def test_aliases_submodules_and_names_from_deep_within_packages(
    shell: InteractiveShell, notebook: Callable[..., str]
) -> None:
    text = notebook(
        "import scipy.ndimage\nimport numpy as number, os.path as place\nfrom skimage.filters import gaussian as blur",
        "from scipy.special import erf\nfrom cv2 import GaussianBlur\nfrom openhcs_jupyter import Step as S",
        "def f(x, low):\n    return scipy.ndimage.zoom(blur(x), low), erf(x), GaussianBlur, place.join('a'), number.pi",
        "pipeline_steps = [S(f)]",
    )
    check(shell, text)
    assert "from skimage.filters import gaussian as blur" in text
    assert "import scipy.ndimage\n" in text


def test_decorators_defaults_and_bases_come_before_what_needs_them(
    shell: InteractiveShell, notebook: Callable[..., str]
) -> None:
    text = notebook(
        "from openhcs_jupyter import Step\nimport functools",
        "def inner_helper(x):\n    return x",
        """
        def twice(g):
            inner_helper(g)
            @functools.wraps(g)
            def run(x, low):
                return g(g(x, low), low)
            return run
        """,
        "START = 4",
        "class Base:\n    n = START",
        "class Child(Base):\n    def go(self):\n        return super().n",
        "@twice\ndef f(x, low=START):\n    return Child().go() + x",
        CELL,
    )
    check(shell, text)
    assert again(text)["f"](1, 2) == 9


def test_functions_that_call_each_other(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from openhcs_jupyter import Step",
        "def g(n):\n    return n and f(n - 1)",
        "def f(n, low=0):\n    return n and g(n - 1)",
        CELL,
    )
    check(shell, text)
    assert text.count("def f") == text.count("def g") == 1


def test_lambdas_aliases_and_partials(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from openhcs_jupyter import Step\nimport functools\nimport numpy as np",
        "double = lambda x: 2 * x",
        "def scale(x, by, keep=None):\n    return double(x) * by",
        "same = scale",
        "half = functools.partial(same, by=0.5, keep=(np.float32(2), float('inf'), {3, 1}, np.max))",
        "pipeline_steps = [Step(half), Step([same, double])]",
    )
    check(shell, text)
    assert again(text)["half"](3) == 3


def test_steps_records_and_paths_made_in_earlier_cells(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "import dataclasses, enum, pathlib, typing\nfrom openhcs_jupyter import Step, Labels",
        "import openhcs_jupyter.functions",
        """
        @dataclasses.dataclass(frozen=True)
        class Setting:
            low: float
            path: pathlib.Path
        class Way(enum.Enum):
            UP = 1
        class Pair(typing.NamedTuple):
            a: int
            b: object
        """,
        "def f(x, setting, way):\n    return x",
        "setting = Setting(0.5, pathlib.Path('weights.npy'))\npair = Pair(1, Way.UP)",
        "first = Step(f, {'setting': setting, 'way': pair}, outputs=Labels('cells'), channel='DAPI', save=True)",
        "more = [first, Step(openhcs_jupyter.functions.max_projection)]",
        "pipeline_steps = [*more]",
    )
    check(shell, text)


def test_reducers_as_classes(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from openhcs_jupyter import Step, Table",
        """
        class Mean:
            def init(self):
                return 0
            def update(self, state, stack):
                return state + stack.sum()
            def merge(self, state, other):
                return state + other
            def finish(self, state):
                return {"mean": [state]}
        """,
        "pipeline_steps = [Step(Mean, outputs=Table('mean'))]",
    )
    check(shell, text)


def test_annotations_that_stay_unread(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from __future__ import annotations\nfrom openhcs_jupyter import Step",
        "def f(x: Unknown, low: int) -> Nothing:\n    return x",
        "from __future__ import annotations\ndef g(x: Other):\n    return x\npipeline_steps = [Step([f, g])]",
    )
    check(shell, text)
    assert text.startswith("from __future__ import annotations\n")


def test_a_function_from_a_cell_with_magics(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from openhcs_jupyter import Step",
        "%config InteractiveShell.ast_node_interactivity = 'last_expr'\ndef f(x, low):\n    return x + low",
        CELL,
    )
    check(shell, text)


def test_modules_of_the_user_are_imported(
    shell: InteractiveShell, notebook: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mylab_steps.py").write_text("def f(x, low):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = notebook("from openhcs_jupyter import Step\nfrom mylab_steps import f", CELL)
    check(shell, text)
    assert "from mylab_steps import f" in text
    sys.modules.pop("mylab_steps")


def test_everything_that_cannot_be_written_is_listed_with_what_it_is(notebook: Callable[..., str]) -> None:
    with pytest.raises(SourceError) as caught:
        notebook(
            "import threading, numpy as np, pandas as pd\nfrom openhcs_jupyter import Step",
            "kernel = np.ones((3, 5), 'float32')\nlock = threading.Lock()\nbig = list(range(10_000))",
            "frame = pd.DataFrame({'a': [1]})\nresult = iter([])",
            "def make(n):\n    return lambda x, low: x + n\nmade = make(kernel)",
            "def helper(x):\n    return x @ kernel, lock",
            "def f(x, low):\n    return helper(x), big, made",
            "pipeline_steps = [Step(f, {'frame': frame})]",
        )
    assert isinstance(caught.value, OpenHCSError)
    assert set(caught.value.names) == {"kernel", "lock", "big", "frame", "made"}
    words = str(caught.value)
    assert "kernel: an array of float32, 3 x 5" in words
    assert "lock: an object of type _thread.lock" in words
    assert "characters" in caught.value.names["big"]
    assert "DataFrame, 1 x 1" in caught.value.names["frame"]
    assert "'make'" in caught.value.names["made"]
    assert "parameter" in words


def test_a_value_that_the_cell_has_changed_itself_is_refused(notebook: Callable[..., str]) -> None:
    with pytest.raises(SourceError, match="gain: used before the cell sets it anew"):
        notebook("gain = 2", "gain = gain * 2\npipeline_steps = []")


def test_what_a_loop_carries_over_is_the_cells_own(shell: InteractiveShell, notebook: Callable[..., str]) -> None:
    text = notebook(
        "from openhcs_jupyter import Step",
        """
        pipeline_steps = []
        for width in (1, 2):
            if pipeline_steps:
                pipeline_steps.append(Step(max, {"key": before}))
            before = width
        """,
    )
    check(shell, text)
    assert "before = 2" not in text


def test_what_the_cell_sets_for_an_earlier_function_is_not_written_twice(
    shell: InteractiveShell, notebook: Callable[..., str]
) -> None:
    text = notebook(
        "import numpy as np\nfrom openhcs_jupyter import Step",
        "def f(x, low):\n    return x @ kernel",
        "kernel = np.ones((3, 3))\n" + CELL,
    )
    check(shell, text)


def test_a_cell_that_is_not_python() -> None:
    with pytest.raises(SyntaxError):
        capture("pipeline_steps = [", {})
