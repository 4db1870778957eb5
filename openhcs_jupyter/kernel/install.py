"""Puts the kernelspec where Jupyter finds it, and takes it away."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from openhcs_jupyter.errors import OpenHCSError, UsageError

KERNEL_NAME = "openhcs"


class HelpLink(TypedDict):
    """One entry of a front end's Help menu."""

    text: str
    url: str


def install(*, user: bool = False, prefix: str | Path | None = None, name: str = KERNEL_NAME) -> Path:
    """Install the kernelspec; an earlier one of the same name is replaced.

    Parameters
    ----------
    user
        Into the user's own Jupyter folder.
    prefix
        Into ``PREFIX/share/jupyter``. If neither is given: this environment, or the user's folder where Python is the
        system's own.
    name
        Of the kernelspec; what ``--kernel`` takes.

    Returns
    -------
    Path
        The folder of the installed kernelspec.

    Raises
    ------
    UsageError
        If `name` cannot be a kernel's name, or both `user` and `prefix` are given.
    OpenHCSError
        If the folder cannot be written.
    """
    return place(_spec(), user=user, prefix=prefix, name=name)


def place(spec: Mapping[str, object], *, user: bool, prefix: str | Path | None, name: str) -> Path:
    """Put a kernelspec with our logos where Jupyter finds it; parameters and errors as for `install`."""
    from jupyter_client.kernelspec import KernelSpecManager

    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UsageError(f"{name!r} cannot be the name of a kernel", "Use letters, digits, dots, hyphens, underscores.")
    if user and prefix:
        raise UsageError("--user and --prefix exclude each other", "Choose one.")
    if not user and prefix is None:
        user, prefix = (False, sys.prefix) if sys.prefix != sys.base_prefix else (True, None)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / name
        shutil.copytree(source_folder(), staged)
        (staged / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n")
        try:
            manager = KernelSpecManager()
            where: str = manager.install_kernel_spec(
                str(staged), kernel_name=name, user=user, prefix=str(prefix) if prefix else None
            )
        except OSError as error:
            raise OpenHCSError(
                f"The kernelspec cannot be written: {error}", "Use --user, or --prefix with a folder of your own."
            ) from error
    return Path(where)


def uninstall(name: str = KERNEL_NAME) -> Path:
    """Remove the kernelspec, the first that Jupyter finds.

    Returns
    -------
    Path
        The folder that was removed.

    Raises
    ------
    UsageError
        If there is none.
    """
    where = installed(name)
    if where is None:
        raise UsageError(f"No kernelspec {name!r} is installed", "jupyter kernelspec list shows what there is.")
    try:
        shutil.rmtree(where)
    except OSError as error:
        raise OpenHCSError(f"{where} cannot be removed: {error}") from error
    return where


def installed(name: str = KERNEL_NAME) -> Path | None:
    """Return the folder of the installed kernelspec that Jupyter takes, or None."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        return Path(KernelSpecManager().get_kernel_spec(name).resource_dir)
    except NoSuchKernel:
        return None


def source_folder() -> Path:
    """Return the folder of the kernelspec's sources: within the installed package, or beside it in a checkout.

    Raises
    ------
    OpenHCSError
        If it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "kernelspec", here.parent.parent / "kernelspec"):
        if (folder / "kernel.json").is_file():
            return folder
    raise OpenHCSError("The sources of the kernelspec are missing", "Install the package again.")


def help_links() -> list[HelpLink]:
    """Return what the kernelspec adds to a front end's Help menu."""
    spec = json.loads((source_folder() / "kernel.json").read_text())
    links: list[HelpLink] = spec["metadata"]["help_links"]
    return links


def kernel_command() -> list[str]:
    """Return the command that starts a kernel, with ``{connection_file}`` in it, in this environment."""
    argv: list[str] = json.loads((source_folder() / "kernel.json").read_text())["argv"]
    # Jupyter may run in another environment than the kernel.
    return [sys.executable, *argv[1:]]


def _spec() -> dict[str, object]:
    spec: dict[str, object] = json.loads((source_folder() / "kernel.json").read_text())
    return spec | {"argv": kernel_command()}
