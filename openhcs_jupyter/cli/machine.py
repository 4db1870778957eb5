"""``openhcs-jupyter`` for the machine: install, uninstall, doctor, functions, gpus, config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from openhcs_jupyter.cli.terminal import FAILED, Add, say, show
from openhcs_jupyter.errors import UsageError

if TYPE_CHECKING:
    from openhcs_jupyter.kernel.findings import Finding


def add_commands(add: Add) -> None:
    """Add these commands."""
    install = add("install", _install, "Install the kernel OpenHCS into Jupyter.")
    place = install.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for the user, in every environment")
    place.add_argument("--prefix", metavar="FOLDER", help="into FOLDER/share/jupyter")
    place.add_argument("--sys-prefix", action="store_true", help="for this environment (the default in one)")
    install.add_argument("--name", help="name of the kernelspec; left out, openhcs, or openhcs-HOST")
    install.add_argument("--remote", metavar="USER@HOST", help="kernels run on a machine that ssh reaches")
    install.add_argument("--python", metavar="PATH", help="with --remote: the Python there that has openhcs-jupyter")
    install.add_argument(
        "--idle-hours",
        metavar="N",
        type=float,
        default=12.0,
        help="with --remote: a kernel that nobody has reached for so long, and that has nothing to do, ends; 0: never",
    )
    uninstall = add("uninstall", _uninstall, "Remove the kernel from Jupyter.")
    uninstall.add_argument("--name", default="openhcs", help="name of the kernelspec")
    doctor = add("doctor", _doctor, "Say what is here, what is missing, and what to do.")
    doctor.add_argument("--remote", metavar="NAME", help="look at the machine of a remote kernel")
    functions = add("functions", _functions, "Show the standard functions, or one with its parameters.")
    functions.add_argument("search", nargs="?", metavar="SEARCH", help="a name, or a word of what they do")
    add("gpus", _gpus, "Show the GPUs of this machine.")
    config = add("config", _config, "Show the settings, or change one.")
    config.add_argument("setting", nargs="?", metavar="NAME")
    config.add_argument("value", nargs="?", metavar="VALUE")


def _install(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel import install

    prefix = sys.prefix if arguments.sys_prefix else arguments.prefix
    if arguments.remote:
        return _install_remote(arguments, prefix)
    if arguments.python:
        raise UsageError("--python belongs to --remote", "The kernel of this machine runs in the Python that you call.")
    where = install(user=arguments.user, prefix=prefix, name=arguments.name or "openhcs")
    say(f"Installed the kernel OpenHCS in {where}")
    return 0


def _install_remote(arguments: argparse.Namespace, prefix: str | None) -> int:
    from openhcs_jupyter.kernel.remote import install_remote, look
    from openhcs_jupyter.kernel.ssh import Host

    if arguments.idle_hours < 0:
        raise UsageError("--idle-hours cannot be negative", "0 lets a forgotten kernel run for ever.")
    if find_spec("sshpyk") is None:
        raise UsageError("Remote kernels need sshpyk.", "Install it here: pip install 'openhcs-jupyter[remote]'.")
    host = Host(arguments.remote, "install")
    try:
        probe = look(host, arguments.python)
        say(f"openhcs-jupyter {probe.version} on {host.name}, {probe.python}")
        missing = _show_findings(probe.findings)
        kernel = install_remote(
            host, probe, user=arguments.user, prefix=prefix, name=arguments.name, idle_hours=arguments.idle_hours
        )
    finally:
        host.leave()
    say(f"Installed the kernel {kernel.name} in {kernel.folder}")
    if missing:
        say(f"{missing} missing on {host.name}; kernels start, and say so where it matters.")
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel import uninstall

    say(f"Removed {uninstall(arguments.name)}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel.doctor import examine

    if arguments.remote is None:
        findings: Sequence[Finding] = examine()
    else:
        from openhcs_jupyter.kernel.remote import look, remote_kernel
        from openhcs_jupyter.kernel.ssh import Host

        kernel = remote_kernel(arguments.remote)
        host = Host(kernel.host, "doctor")
        try:
            probe = look(host, kernel.python)
        finally:
            host.leave()
        say(f"openhcs-jupyter {probe.version} on {host.name}, {probe.python}")
        findings = probe.findings
    missing = _show_findings(findings)
    say(f"{missing} missing." if missing else "Ready.")
    return FAILED if missing else 0


def _show_findings(findings: Sequence[Finding]) -> int:
    """Show what was found, and return how much is missing."""
    signs = {"ok": "\u2713", "optional": "\u25cb", "missing": "\u2717"}
    for finding in findings:
        say(f"{signs[finding.state]} {finding.what:<16} {finding.found}")
        if finding.advice:
            say(f"  {'':<16} {finding.advice}")
    return sum(finding.state == "missing" for finding in findings)


def _functions(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.functions import functions_view

    return show(functions_view(arguments.search, "openhcs-jupyter functions"))


def _gpus(arguments: argparse.Namespace) -> int:  # noqa: ARG001 - all commands are called alike
    from openhcs_jupyter.magics.views.gpus import gpus_view
    from openhcs_jupyter.topology import discover

    return show(gpus_view(discover()))


def _config(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.config import save_setting
    from openhcs_jupyter.magics.views.settings import settings_view

    if arguments.value is not None:
        save_setting(arguments.setting, arguments.value)
    return show(settings_view(arguments.setting))
