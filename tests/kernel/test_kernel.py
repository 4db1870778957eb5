"""The kernelspec: where it goes, and that the kernel does what plain ipykernel does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jupyter_kernel_test
import pytest

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.kernel import install, installed, uninstall
from tests.jupyter import Kernel, kernel


@pytest.fixture(scope="module", autouse=True)
def kernelspec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the kernelspec below a prefix that Jupyter searches during these tests."""
    prefix = tmp_path_factory.mktemp("prefix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(prefix / "share" / "jupyter"))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        yield install(prefix=prefix)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kernel, list[str]]]:
    """A kernel, and what it completed before its first cell."""
    with kernel(tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("work")) as started:
        yield started, started.complete("gaussian_b")


@pytest.fixture
def running(fresh: tuple[Kernel, list[str]]) -> Kernel:
    return fresh[0]


def test_install_writes_what_jupyter_needs(kernelspec: Path) -> None:
    spec = json.loads((kernelspec / "kernel.json").read_text())
    assert spec["display_name"] == "OpenHCS"
    assert spec["argv"][0] == sys.executable
    assert spec["argv"][-1] == "--IPKernelApp.extra_extensions=openhcs_jupyter"
    assert {path.name for path in kernelspec.iterdir()} == {
        "kernel.json", "logo-32x32.png", "logo-64x64.png", "logo-svg.svg",
    }  # fmt: skip
    assert installed() == kernelspec


@pytest.mark.parametrize("size", [32, 64])
def test_logos_have_the_sizes_that_they_say(kernelspec: Path, size: int) -> None:
    png = (kernelspec / f"logo-{size}x{size}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (size, size)


def test_uninstall_removes_it(kernelspec: Path) -> None:
    prefix = kernelspec.parents[3]
    other = install(prefix=prefix, name="openhcs-other")
    assert other.is_dir()
    assert uninstall("openhcs-other") == other
    assert not other.exists()
    with pytest.raises(UsageError, match="No kernelspec 'openhcs-other'"):
        uninstall("openhcs-other")


def test_a_name_that_is_no_kernel_name_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be the name of a kernel"):
        install(name="my kernel")


def test_the_kernel_has_the_words_of_a_pipeline_and_help_links(running: Kernel) -> None:
    out = running.run("print(Step.__name__, Labels.__name__, callable(gaussian_blur), callable(image))")
    assert out.text.strip() == "Step Labels True True"
    running.client.kernel_info()
    reply = running.client.get_shell_msg(timeout=10)
    while reply["msg_type"] != "kernel_info_reply":
        reply = running.client.get_shell_msg(timeout=10)
    assert "OpenHCS" in [link["text"] for link in reply["content"]["help_links"]]


def test_the_words_are_completed_before_the_first_cell(fresh: tuple[Kernel, list[str]]) -> None:
    assert "gaussian_blur" in fresh[1]


def test_loading_the_extension_again_changes_nothing(running: Kernel) -> None:
    out = running.run(
        "%reload_ext openhcs_jupyter\n%load_ext openhcs_jupyter\nprint(len(get_ipython().input_transformers_post))"
    )
    assert out.error == ""
    assert out.text.strip().endswith("1")


def test_what_the_user_has_already_is_not_overwritten(running: Kernel) -> None:
    out = running.run(
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell()\n"
        "shell.user_ns['image'] = 'mine'\n"
        "shell.run_line_magic('load_ext', 'openhcs_jupyter')\n"
        "print(shell.user_ns['image'], shell.user_ns['measure'].__name__)"
    )
    assert out.text.strip().splitlines()[-1] == "mine measure"


class TestProtocol(jupyter_kernel_test.KernelTests):
    """What every Jupyter kernel must do, by the tests that Jupyter publishes.

    The history tests "range" and "session 0" are left out: plain python3 fails them too (jupyter_kernel_test 0.7).
    """

    kernel_name = "openhcs"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = (
        {"text": "zi", "matches": {"zip"}},
        {"text": "%openhcs conn", "matches": {"connect"}},
    )
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n", "%openhcs plates")
    incomplete_code_samples = ("print('''hello", "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q",)
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = ({"code": "1+2+3", "result": "6"},)
    code_display_data = (
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "%openhcs plates", "mime": "text/html"},
    )
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
