"""Fingerprints of functions: what must not change their identity, and what must."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openhcs_jupyter import functions as standard
from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline import image
from openhcs_jupyter.pipeline.fingerprint import FingerprintError, fingerprint, fingerprint_value
from tests.pipeline.cells import cell, identity

PLAIN = """
def f(image, low=1):
    bright = [row for row in image if row > low]
    return bright, {"a", "b", "c"}
"""


def test_is_hexadecimal_and_32_long() -> None:
    assert len(identity(PLAIN)) == 32
    assert int(identity(PLAIN), 16) >= 0


@pytest.mark.parametrize(
    "same",
    [
        PLAIN,
        "\n\n\n# Moved down.\n" + PLAIN,
        PLAIN.replace("bright = [", "# A comment.\n    bright = ["),
        PLAIN.replace("low=1):", 'low=1):\n    """Keep what is bright."""'),
        PLAIN.replace("low=1):", 'low=1):\n    """a"""'),
        PLAIN.replace("image, low=1", "image: list, low: int = 1"),
        PLAIN.replace(
            "[row for row in image if row > low]", "[\n        row for row in image\n        if row > low\n    ]"
        ),
    ],
)
def test_comments_docstrings_annotations_layout_and_place_do_not_count(same: str) -> None:
    assert identity(same) == identity(PLAIN)


@pytest.mark.parametrize(
    "other",
    [
        PLAIN.replace(">", ">="),
        PLAIN.replace("low=1", "low=2"),
        PLAIN.replace("low=1", "low=1.0"),
        PLAIN.replace("low=1", "low=True"),
        PLAIN.replace("low=1", "high=1").replace("> low", "> high"),
        PLAIN.replace("low=1", "*, low=1"),
        PLAIN.replace('"c"', '"d"'),
        PLAIN.replace("bright, {", "bright, 1, {"),
    ],
)
def test_body_defaults_and_constants_count(other: str) -> None:
    assert identity(other) != identity(PLAIN)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(["1", "1.0", "True", "'1'", "1j", "b'1'"], 2)))
def test_constants_of_equal_value_and_different_type_differ(one: str, other: str) -> None:
    source = "def f(x):\n    return x * {} in (0, {})"
    assert identity(source.format(one, one)) != identity(source.format(other, other))


def test_a_docstring_that_is_also_a_constant_counts_as_the_constant() -> None:
    source = 'def f(x):\n    """a"""\n    return x == "a"'
    assert identity(source) == identity('def f(x):\n    return x == "a"')
    assert identity(source) != identity('def f(x):\n    """a"""\n    return x == "b"')


def test_the_hash_seed_does_not_count(tmp_path: Path) -> None:
    script = tmp_path / "seeded.py"
    script.write_text(
        textwrap.dedent("""
        from openhcs_jupyter.pipeline.fingerprint import fingerprint
        NAMES = {"alpha", "beta", "gamma", "delta"}
        def helper(x):
            return x in {"red", "green", "blue", "white"} or x in NAMES
        def f(image, chosen=frozenset("abcdefgh")):
            return [helper(row) for row in image if row in chosen]
        print(fingerprint(f, {"keep": {"one", "two", "three"}, "also": [frozenset("xyz")]}))
        """)
    )
    found = {
        subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(standard.__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(found) == 1


HELPER = "def helper(x):\n    return x * SCALE"
USER = "SCALE = 2\ndef f(x):\n    def inner(y):\n        return helper(y)\n    return inner(x)"


def test_a_helper_from_another_cell_counts_by_its_code() -> None:
    assert identity(HELPER, USER) == identity("# Later.\n\n" + HELPER.replace("SCALE", "SCALE  # why"), USER)
    assert identity(HELPER, USER) != identity(HELPER.replace("*", "+"), USER)


def test_a_global_that_only_the_helper_uses_counts() -> None:
    assert identity(HELPER, USER) != identity(HELPER, USER.replace("SCALE = 2", "SCALE = 3"))


def test_globals_that_are_not_used_do_not_count() -> None:
    assert identity(PLAIN) == identity(PLAIN, "other = open\nlow = 7")


def test_a_global_that_is_missing_still_has_an_identity_and_its_coming_counts() -> None:
    source = "def f(x):\n    return x * later"
    assert identity(source) != identity(source, "later = 2")


def test_closures_count() -> None:
    source = "def make(n):\n    def g(x):\n        return x * n\n    return g\nf = make({})"
    assert identity(source.format("2")) == identity(source.format("2"))
    assert identity(source.format("2")) != identity(source.format("3"))
    assert identity(source.format("2")) != identity(source.format("2.0"))


def test_functions_that_call_themselves_and_each_other() -> None:
    source = """
    def g(n):
        return n and f(n - 1)
    def f(n):
        return n and (g(n - 1) or f(n - 2))
    """
    assert identity(source) == identity("# Moved.\n" + textwrap.dedent(source))
    assert identity(source) != identity(source.replace("f(n - 1)", "f(n - 3)"))


def test_a_shadowed_builtin_counts() -> None:
    source = "def f(x):\n    return len(x)"
    assert identity(source) != identity(source, "def len(x):\n    return 3")


MODULES = """
def f(x):
    for row in x:
        try:
            with np.errstate(all="ignore"):
                np.add(row, np.linalg.norm(row))
        except ValueError:
            return [np.abs(row) for row in x if row is not None]
    return np.sum(x, axis=0)
"""


def test_cells_may_be_joined_and_split() -> None:
    assert identity("import numpy as np", MODULES) == identity("import numpy as np\n" + MODULES)
    assert identity("import numpy as np", MODULES) != identity("import math as np\n" + MODULES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError", "KeyError"),
        ("if row is not None", "if row is None"),
        ("return np.sum", "np.sum"),
        ("axis=0", "out=0"),
    ],
)
def test_branches_handlers_and_keywords_count(one: str, other: str) -> None:
    assert identity("import numpy as np", MODULES) != identity("import numpy as np", MODULES.replace(one, other))


def test_what_a_branch_encloses_counts() -> None:
    source = "def f(x):\n    if x:\n        x = g(x)\n{}    x = h(x)\n    return x"
    assert identity(source.format("")) != identity(source.format("    "))
    guarded = "def f(x):\n    try:\n        g(x)\n{}    except KeyError:\n        pass\n{}    return x"
    assert identity(guarded.format("        h(x)\n", "")) != identity(guarded.format("", "    h(x)\n"))


def test_lambdas_partials_and_methods() -> None:
    make = "import functools\ndef g(x, n=1):\n    return x * n\nf = functools.partial(g, n={})"
    assert identity(make.format(2)) == identity(make.format(2))
    assert identity(make.format(2)) != identity(make.format(3))
    assert identity("f = lambda x: x + 1") == identity("f = lambda x:   x + 1  # more")
    assert identity("f = lambda x: x + 1") != identity("f = lambda x: x + 2")
    bound = "class A:\n    def __init__(self, n): self.n = n\n    def go(self, x): return x * self.n\nf = A({}).go"
    assert identity(bound.format(2)) != identity(bound.format(3))


def test_a_decorated_function_counts_with_what_it_wraps() -> None:
    source = """
    import functools
    def twice(g):
        @functools.wraps(g)
        def run(x):
            return g(g(x))
        return run
    @twice
    def f(x):
        return x + 1
    """
    assert identity(source) == identity(source)
    assert identity(source) != identity(source.replace("x + 1", "x + 2"))
    assert identity(source) != identity(source.replace("g(g(x))", "g(x)"))
    cached = "import functools\n@functools.lru_cache\ndef f(x):\n    return x + {}"
    assert identity(cached.format(1)) != identity(cached.format(2))


def test_a_contract_counts_by_what_it_changes_in_the_call() -> None:
    def declared(**options: Any) -> Callable[..., Any]:
        def f(stack: Any) -> Any:
            return stack

        return image(**options)(f)

    assert fingerprint(declared(need=3)) == fingerprint(declared(need=9))
    assert fingerprint(declared(stack="z")) != fingerprint(declared(stack="channel"))


CLASS = '''
class Base:
    gain = 2
class Mean(Base):
    """Mean of all."""
    def __init__(self, start=0):
        self.start = start
    def init(self):
        return self.start
    def update(self, state, stack):
        return state + self.gain * stack.sum()
    def merge(self, state, other):
        return state + other
    def finish(self, state):
        return super().__repr__(), state
f = Mean
'''


def test_reducers_as_classes_and_instances_count_by_code_and_state() -> None:
    assert identity(CLASS) == identity("# Moved.\n\n" + CLASS.replace("Mean of all.", "Other words."))
    assert identity(CLASS) != identity(CLASS.replace("state + other", "state - other"))
    assert identity(CLASS) != identity(CLASS.replace("gain = 2", "gain = 3"))
    assert identity(CLASS + "f = Mean(1)") == identity(CLASS + "f = Mean(1)")
    assert identity(CLASS + "f = Mean(1)") != identity(CLASS + "f = Mean(2)")
    assert identity(CLASS) != identity(CLASS + "f = Mean(0)")


def test_a_class_within_a_function_may_change_its_docstring() -> None:
    source = 'def f(x):\n    class A:\n        """{}"""\n        n = {}\n    return A.n'
    assert identity(source.format("one", 1)) == identity(source.format("two", 1))
    assert identity(source.format("one", 1)) == identity("def f(x):\n    class A:\n        n = 1\n    return A.n")
    assert identity(source.format("one", 1)) != identity(source.format("one", 2))


@pytest.mark.parametrize(
    "source",
    [
        """
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class P:
            n: int = {}
            k: list = dataclasses.field(default_factory=list)
        """,
        """
        import msgspec
        class P(msgspec.Struct, frozen=True):
            n: int = {}
            k: list = msgspec.field(default_factory=list)
        """,
        """
        import typing
        class P(typing.NamedTuple):
            n: int = {}
        """,
        """
        import enum
        class P(enum.Enum):
            n = {}
            m = 9
        """,
    ],
)
def test_record_classes_of_the_user(source: str) -> None:
    use = "def f(x):\n    return P"
    assert identity(source.format(1), use) == identity("\n" + source.format(1), use)
    assert identity(source.format(1), use) != identity(source.format(2), use)


def test_parameters_count_and_their_order_does_not() -> None:
    assert identity(PLAIN, params={"a": 1, "b": 2}) == identity(PLAIN, params={"b": 2, "a": 1})
    assert identity(PLAIN, params={"a": 1}) != identity(PLAIN, params={"a": 1.0})
    assert identity(PLAIN, params={"a": 1}) != identity(PLAIN, params={"b": 1})
    assert identity(PLAIN, params={}) == identity(PLAIN)


# What has no identity.


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("model = threading.Lock()\ndef f(x):\n    return model, x", ["Global 'model'", "'f'", "lock"]),
        ("handle = open(os.devnull)\ndef f(x):\n    return handle", ["Global 'handle'", "TextIOWrapper"]),
        ("def f(x, rng=np.random.default_rng(1)):\n    return x", ["default of parameter 'rng'", "Generator"]),
        ("def g(x):\n    return model\nmodel = threading.Lock()\ndef f(x):\n    return g(x)", ["'model'", "'g'"]),
        ("def make(net):\n    return lambda x: net\nf = make({'a': [iter([])]})", ["'net'", "['a'][0]"]),
        (
            "class Net:\n    def __init__(self): self.lock = threading.Lock()\nnet = Net()\ndef f(x):\n    return net",
            ["'net'.lock"],
        ),
    ],
)
def test_what_has_no_identity_is_named_with_what_to_do(source: str, words: list[str]) -> None:
    namespace = cell("import os, threading\nimport numpy as np", source)
    with pytest.raises(FingerprintError) as caught:
        fingerprint(namespace["f"])
    if "handle" in namespace:
        namespace["handle"].close()
    assert isinstance(caught.value, OpenHCSError)
    for word in (*words, "parameter", "inside the function"):
        assert word in str(caught.value)


def test_a_parameter_without_identity_is_named() -> None:
    with pytest.raises(FingerprintError, match=r"Parameter 'weights'\['lock'\] of function 'f'"):
        identity(PLAIN, params={"weights": {"lock": threading.Lock()}})
    with pytest.raises(FingerprintError, match="The value is an object of type generator"):
        fingerprint_value(x for x in ())
