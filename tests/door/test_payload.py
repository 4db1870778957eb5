"""Payloads: steps and cells as source code that makes the same steps elsewhere, or an error that names what cannot."""

from __future__ import annotations

import functools
import linecache
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openhcs_jupyter.door.payload import Code, code_of_steps, code_of_text, load
from openhcs_jupyter.door.text import Source, checked_steps
from openhcs_jupyter.errors import CompileError, UsageError
from openhcs_jupyter.functions import composite, gaussian_blur, max_projection, top_hat
from openhcs_jupyter.magics.names import standard_names
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well
from openhcs_jupyter.pipeline import FunctionStep, Labels, Step, Table, adapt, image
from openhcs_jupyter.pipeline.chains import chains_of
from openhcs_jupyter.pipeline.fingerprint import fingerprint, fingerprint_value
from tests.engine import functions as own_module

_CELLS = count(1)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what payloads do to the search path."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def identities(steps: list[Any]) -> list[str]:
    """Return all that tells steps apart."""
    found: list[str] = []
    for step in steps:
        for channel, chain in sorted(chains_of(step).items()):
            found += [f"{channel} {fingerprint(call.function, call.params)}" for call in chain]
        found.append(fingerprint_value([step.name, step.stack, step.channel, step.inputs, step.outputs, step.save]))
    return found


def sent(payload: Code, tmp_path: Path) -> list[Any]:
    """Send a payload as bytes and make its steps."""
    return load(msgspec.json.decode(msgspec.json.encode(payload), type=Code), tmp_path)


def of_text(text: str, name: str, namespace: dict[str, Any]) -> Code:
    """Make a payload of a cell."""
    return code_of_text(Source(name, text, name), namespace)


def cell(text: str, namespace: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a cell of a notebook."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    filename = f"<cell {next(_CELLS)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec", dont_inherit=True), namespace)
    return namespace


def problems(work: Callable[[], object]) -> list[Any]:
    with pytest.raises(CompileError) as caught:
        work()
    return list(caught.value.problems)


@pytest.mark.usefixtures("path")
def test_a_cell_goes_with_what_it_takes_from_earlier_cells_and_is_not_run(tmp_path: Path) -> None:
    names = cell("import numpy as np\nGAIN = 2.5\ndef helper(x):\n    return np.sqrt(x) * GAIN", standard_names())
    names["unused"] = np.zeros(3)
    text = (
        "%%openhcs nuclei --plate 51\n"
        "def f(stack, low):\n"
        "    return helper(stack) - low\n"
        "pipeline_steps = [Step(f, {'low': 3}), Step(max_projection, save=True)]\n"
    )
    payload = of_text(text, "Cell In[3]", names)
    assert payload.text == text
    assert "f" not in names
    assert "unused" not in payload.before
    made = sent(payload, tmp_path)
    here = cell(text.partition("\n")[2], dict(names))
    assert identities(made) == identities(here["pipeline_steps"])
    assert [step.line for step in made] == [4, 4]


@pytest.mark.usefixtures("path")
def test_lines_of_tracebacks_are_the_cells_own(tmp_path: Path) -> None:
    text = "%%openhcs\n\ndef f(stack):\n    raise ValueError('no')\n\npipeline_steps = [Step(f)]"
    (step,) = sent(of_text(text, "Cell In[7]", cell("HUGE = 1", standard_names())), tmp_path)
    with pytest.raises(ValueError, match="no") as caught:
        step.function(None)
    last = caught.traceback[-1]
    assert (str(last.frame.code.raw.co_filename), last.lineno + 1) == ("Cell In[7]", 4)


@pytest.mark.usefixtures("path")
def test_an_earlier_value_that_the_cell_replaces_is_sent(tmp_path: Path) -> None:
    text = "gain = gain * 2\npipeline_steps = [Step(max_projection, {'gain': gain})]"
    (step,) = sent(of_text(text, "Cell", {**standard_names(), "gain": 4}), tmp_path)
    assert step.params == {"gain": 8}


def test_what_a_cell_cannot_take_along_is_named_with_the_step_that_uses_it() -> None:
    names = cell(
        "import numpy as np, threading\n"
        "kernel = np.ones((3, 5), 'float32')\n"
        "lock = threading.Lock()\n"
        "def deep(x):\n    return x @ kernel\n"
        "def helper(x):\n    return deep(x)",
        standard_names(),
    )
    text = (
        "def g(stack):\n"
        "    return helper(stack)\n"
        "pipeline_steps = [\n"
        "    Step(max_projection),\n"
        "    Step({'DAPI': [top_hat, (g, {})]}),\n"
        "    Step(gaussian_blur, {'lock': lock}, name='guarded'),\n"
        "]"
    )
    by_name = {p.message.split("'")[3]: p for p in problems(lambda: of_text(text, "Cell In[2]", names))}
    assert by_name["kernel"].message == "step 'top_hat': 'kernel' cannot be sent: an array of float32, 3 x 5"
    assert (by_name["kernel"].line, by_name["lock"].line) == (5, 6)
    assert by_name["lock"].message == "step 'guarded': 'lock' cannot be sent: an object of type _thread.lock"
    assert "the path of its file" in by_name["kernel"].hint


def test_a_cell_without_steps_or_that_is_not_python_is_refused() -> None:
    with pytest.raises(UsageError, match="does not assign pipeline_steps"):
        of_text("%%openhcs\nx = 1", "Cell In[1]", {})
    with pytest.raises(SyntaxError):
        of_text("%%openhcs\npipeline_steps = [", "Cell In[1]", {})


@pytest.mark.usefixtures("path")
def test_steps_made_of_functions_of_all_kinds(tmp_path: Path) -> None:
    bias = 3

    @image(depth="same", need=2.0)
    def shifted(stack: Any, by: int = bias) -> Any:
        """Shift."""
        return stack + by + bias

    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(stack: Any) -> Any:
            return function(function(stack))

        return run

    steps = [
        Step({"DAPI": [gaussian_blur, (top_hat, {"radius": 15})], "GFP": shifted}, save=True),
        Step([lambda stack: stack + bias, lambda stack: stack * bias], name="lambdas"),
        Step(twice(shifted), channel="DAPI", outputs=[Labels("cells"), Table("rows")]),
        Step(functools.partial(shifted, by=np.float32(2)), inputs={"labels": "cells"}, stack="z"),
        Step(own_module.negative),
        Step(composite, {"weights": {"DAPI": (0.5, 1.0), "GFP": [1, None]}}, stack="channel"),
    ]
    payload = code_of_steps(steps)
    made = sent(payload, tmp_path)
    assert identities(made) == identities(steps)
    assert made[1].function[1](2) == 6
    assert made[0].function["GFP"](1) == 7
    assert "tests/engine/functions.py" in payload.modules
    assert "pickle" not in payload.script


@pytest.mark.usefixtures("path")
def test_functions_of_one_name_and_a_function_that_calls_itself(tmp_path: Path) -> None:
    def made(by: int) -> Callable[..., Any]:
        def f(stack: Any, n: int = 2) -> Any:
            return stack + by if n == 0 else f(stack, n - 1)

        return f

    steps = [Step(made(1)), Step(made(2))]
    again = sent(code_of_steps(steps), tmp_path)
    assert [step.function(10) for step in again] == [11, 12]
    assert identities(again) == identities(steps)


def test_an_array_in_a_closure_is_named() -> None:
    weights = np.ones((2, 2))

    def weighted(stack: Any) -> Any:
        return stack @ weights

    with open(__file__) as file:  # noqa: PTH123 - what a user would write
        steps = [
            Step(weighted),
            Step(gaussian_blur, {"sigma": 1, "options": {"kernel": weights}}, name="blur"),
            Step(max_projection, {"log": file}),
        ]
        found = problems(lambda: code_of_steps(steps))
    assert [(problem.step, problem.message) for problem in found] == [
        (
            "weighted",
            "step 'weighted': it is a function that 'test_an_array_in_a_closure_is_named' made, "  # noqa: ISC004 - one message
            "whose 'weights' is an array of float64, 2 x 2, which cannot be sent",
        ),
        ("blur", "step 'blur': parameter 'options'['kernel'] is an array of float64, 2 x 2, which cannot be sent"),
        (
            "max_projection",
            "step 'max_projection': parameter 'log' is an object of type _io.TextIOWrapper, which cannot be sent",
        ),
    ]
    assert all(problem.line and problem.hint for problem in found)


@pytest.mark.usefixtures("path")
def test_modules_beside_the_notebook_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "mylab").mkdir(parents=True)
    (here / "mylab" / "__init__.py").write_text("")
    (here / "mylab" / "steps.py").write_text(
        "import numpy as np\nfrom . import extra\nfrom mylab_words import LOW\n"
        "def f(stack, low=LOW):\n    return extra.same(np.asarray(stack)) - low\n"
    )
    (here / "mylab" / "extra.py").write_text("def same(x):\n    return x\n")
    (here / "mylab_words.py").write_text("LOW = 4\n")
    monkeypatch.syspath_prepend(str(here))
    names = standard_names()
    payload = of_text("from mylab.steps import f\npipeline_steps = [Step(f)]", "Cell In[1]", names)
    assert list(payload.modules) == ["mylab/__init__.py", "mylab/extra.py", "mylab/steps.py", "mylab_words.py"]
    (tmp_path / "payload.json").write_bytes(msgspec.json.encode(payload))
    code = (
        "import sys, msgspec, pathlib\n"
        "from openhcs_jupyter.door.payload import load, Code\n"
        f"payload = msgspec.json.decode(pathlib.Path({str(tmp_path / 'payload.json')!r}).read_bytes(), type=Code)\n"
        f"(step,) = load(payload, pathlib.Path({str(there)!r}))\n"
        "print(step.function(10), step.function.__code__.co_filename)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["6", str(there / "mylab" / "steps.py")]


def test_modules_with_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    for name in ("../evil.py", "/tmp/evil.py", "a/../../b.py", "a.so", "a b.py", ".py"):
        payload = Code(cell="pipeline_steps = []", text="", text_name="Cell", modules={name: "1 / 0"})
        with pytest.raises(UsageError, match="no name of a module"):
            load(payload, tmp_path / "folder")
    assert list(tmp_path.rglob("*.py")) == []


# Steps of OpenHCS's.


class Along(Enum):
    """As OpenHCS has them."""

    Z_INDEX = "z_index"
    CHANNEL = "channel"


def _plate() -> Plate:
    layout = Layout(size_t=1, size_c=2, size_z=3, size_y=8, size_x=8, dtype="uint16")
    field = Field(id=1, number=1, images=(Image(id=1, kind="stack", layout=layout, version="1"),))
    wells = tuple(Well(id=n, row=n // 3, column=n % 3, fields=(field,)) for n in range(6))
    channels = (Channel(name="DAPI"), Channel(name="GFP"))
    return Plate(id=1, name="p", repository="nowhere", rows=8, columns=12, channels=channels, wells=wells)


class Theirs:
    """A step as OpenHCS makes them: configurations that resolve lazily."""

    def __init__(self, func: Any, name: str, **configs: Any) -> None:
        self.func, self.name, self.enabled = func, name, True
        self.processing_config = None
        for key, value in configs.items():
            setattr(self, key, value)


class Lazy:
    """A configuration whose class has a switch that the instance may leave open."""

    enabled = None

    def __init__(self, **said: Any) -> None:
        self.__dict__.update(said)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("with_config", [False, True])
def test_function_steps_say_elsewhere_what_they_say_here(tmp_path: Path, with_config: bool) -> None:
    steps = [
        FunctionStep(
            func={"1": [gaussian_blur, (top_hat, {"radius": 9})], "2": gaussian_blur},
            variable_components=[Along.Z_INDEX],
            well_filter=["A01", "B02"],
            step_materialization_config=True,
        ),
        Theirs(
            max_projection,
            "project",
            processing_config=SimpleNamespace(variable_components=[Along.Z_INDEX], group_by=None),
            step_well_filter_config=SimpleNamespace(well_filter="A01,B02", well_filter_mode=None),
            napari_streaming_config=Lazy(enabled=True, port=5557),
            step_materialization_config=Lazy(),
        ),
        FunctionStep(func=max_projection, enabled=False, processing_config=Lazy(variable_components=Along.CHANNEL)),
        FunctionStep((composite, {}), processing_config=Lazy(), variable_components=None, well_filter="A01,B02"),
    ]
    config = None
    if with_config:
        config = SimpleNamespace(
            processing_config=SimpleNamespace(variable_components=["channel"]),
            well_filter_config=SimpleNamespace(well_filter=4),
        )
    else:
        steps[3] = FunctionStep((composite, {}), variable_components=["channel"], well_filter="A01,B02")
    here = adapt(checked_steps(steps, config), _plate())
    there = adapt(sent(code_of_steps(steps, config), tmp_path), _plate())
    assert identities(there.steps) == identities(here.steps)
    assert (there.wells, there.view, there.notes) == (here.wells, here.view, here.notes)
    assert here.wells == (("A01",) if with_config else ("A01", "B02")) or here.wells == ("A01", "B02")


# Whatever can be said comes out as it went in.


class Pair(NamedTuple):
    """Of a module that can be imported."""

    first: object
    second: object


class Record(msgspec.Struct, frozen=True):
    """Likewise."""

    value: object


_PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([Along.CHANNEL, Path("a/b"), np.dtype("uint16"), np.float32(1.5), np.int64(-3), np.pi, range(3)]),
    st.sampled_from([np.sqrt, len, max, gaussian_blur, Path, Along, functools.reduce, float("nan"), ...]),
)
_HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.tuples(st.integers()))
VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(_HASHABLE, inner, max_size=3),
        st.frozensets(_HASHABLE, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Record, inner),
    ),
    max_leaves=8,
)
_BODY = """
import math
import numpy as np

LIMIT = {constant!r}

def helper(stack):
    return np.minimum(stack, LIMIT) + math.pi

class Way:
    start = LIMIT

    def go(self, stack):
        return helper(stack)

def made(first, second):
    def f(stack, low=first, *, high={constant!r}):
        return {expression}
    {also}
    return f
"""
_EXPRESSIONS = st.lists(
    st.sampled_from(
        [
            "first",
            "(second, first)",
            "helper(stack)",
            "Way().go(stack) if low else high",
            "[LIMIT for _ in range(3)]",
            "(lambda x: (x, first))(stack)",
            "np.linalg.norm(stack)",
            "f(stack) if second else None",
            "f'{first!r} {low:}'",
            "max(math.sin(1), LIMIT)",
        ]
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(
    first=VALUES,
    second=VALUES,
    params=st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, max_size=3),
    constant=st.one_of(st.integers(), st.text(max_size=5), st.tuples(st.integers(), st.booleans())),
    expressions=_EXPRESSIONS,
    also=st.sampled_from(["pass", "f.mark = 3", "f = image(depth='same')(f)"]),
)
def test_source_and_back_has_the_same_fingerprint(
    tmp_path_factory: pytest.TempPathFactory,
    first: Any,
    second: Any,
    params: dict[str, Any],
    constant: Any,
    expressions: list[str],
    also: str,
) -> None:
    known, path = dict(linecache.cache), list(sys.path)
    try:
        text = _BODY.format(constant=constant, expression=f"({', '.join(expressions)})", also=also)
        names = cell(text, {"__name__": "__main__", "image": image})
        steps = [Step(names["made"](first, second), params), Step([names["helper"], (names["made"](1, 2), params)])]
        folder = tmp_path_factory.mktemp("modules")
        again = sent(code_of_steps(steps), folder)
        assert identities(again) == identities(steps)
        names["given"] = {"params": params, "step": steps[0]}
        by_text = of_text(
            "pipeline_steps = [given['step'], Step([helper, (made(1, 2), given['params'])])]",
            "Cell In[1]",
            {**names, "Step": Step},
        )
        assert identities(sent(by_text, folder)) == identities(steps)
    finally:
        linecache.cache.clear()
        linecache.cache.update(known)
        sys.path[:] = path


@pytest.fixture(autouse=True)
def _lines() -> Iterator[None]:
    known = dict(linecache.cache)
    yield
    linecache.cache.clear()
    linecache.cache.update(known)
