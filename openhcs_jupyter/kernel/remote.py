"""Makes a kernel on another machine one of this Jupyter's kernels, after a look at that machine."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import msgspec

from openhcs_jupyter import __version__
from openhcs_jupyter.errors import RemoteError, UsageError
from openhcs_jupyter.kernel.findings import MARK, Probe
from openhcs_jupyter.kernel.install import help_links, installed, place
from openhcs_jupyter.kernel.ssh import Host

PROVISIONER = "openhcs-ssh"
_LOOK_S = 90.0
# A login over SSH often lacks what a terminal has on its path.
_FIND_PYTHON = """
for script in "$(command -v openhcs-jupyter)" "$HOME/.local/bin/openhcs-jupyter"; do
    [ -r "$script" ] && head -n 1 "$script" | sed -n 's/^#!//p'
done
command -v python3
command -v python
true
"""


class RemoteKernel(NamedTuple):
    """A kernel on another machine, as its kernelspec says."""

    name: str
    host: str
    python: str
    folder: Path
    """Of the kernelspec."""


def look(host: Host, python: str | None = None) -> Probe:
    """Look at an installation on another machine.

    Parameters
    ----------
    host
        The machine.
    python
        The installation's Python there; None looks for it.

    Raises
    ------
    RemoteError
        If the machine is not reached, or there is no installation, or one of another version.
    """
    candidates = [python] if python else _candidates(host)
    for candidate in candidates:
        done = host.attempt(f"exec {quoted(candidate)} -m openhcs_jupyter.kernel.probe", timeout=_LOOK_S)
        line = next((line for line in done.stdout.decode().splitlines() if line.startswith(MARK)), None)
        if line is not None:
            probe = msgspec.json.decode(line.removeprefix(MARK), type=Probe)
            require_same_version(__version__, probe.version, host.name, probe.python)
            return probe
    tried = ", ".join(candidates) or "no Python is on the path there"
    raise RemoteError(
        f"openhcs-jupyter is not found on {host.name} ({tried}).",
        "Install it there (python3 -m venv openhcs && openhcs/bin/pip install 'openhcs-jupyter[notebook]'),\n"
        "or name the Python that has it: --python /home/you/openhcs/bin/python",
    )


def install_remote(
    host: Host, probe: Probe, *, user: bool, prefix: str | Path | None, name: str | None, idle_hours: float
) -> RemoteKernel:
    """Install a kernelspec whose kernels run on another machine.

    Parameters
    ----------
    host
        The machine.
    probe
        What `look` found there.
    user, prefix
        As for `openhcs_jupyter.kernel.install`.
    name
        Of the kernelspec; None makes one of the machine's.
    idle_hours
        After so long without a client, and without work, a kernel ends.

    Raises
    ------
    UsageError
        If `name` cannot be a kernel's name.
    OpenHCSError
        If the folder cannot be written.
    """
    label = host.name.rpartition("@")[2]
    spec = {
        "argv": ["openhcs-jupyter", "runs", "its", "kernel", "on", host.name],
        "display_name": f"OpenHCS on {label}",
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {
            "debugger": True,
            "help_links": help_links(),
            "kernel_provisioner": {
                "provisioner_name": PROVISIONER,
                "config": {
                    "ssh_host_alias": host.name,
                    "remote_python": probe.python,
                    "remote_kernel_name": "openhcs",
                    "idle_hours": idle_hours,
                },
            },
        },
    }
    name = name or f"openhcs-{re.sub(r'[^a-z0-9.-]+', '-', label.lower())}"
    return RemoteKernel(name, host.name, probe.python, place(spec, user=user, prefix=prefix, name=name))


def remote_kernels() -> list[RemoteKernel]:
    """List the installed kernels whose machine is another one."""
    from jupyter_client.kernelspec import KernelSpecManager

    found = []
    for name, folder in sorted(KernelSpecManager().find_kernel_specs().items()):
        try:
            spec = json.loads((Path(folder) / "kernel.json").read_text())
            provisioner = spec["metadata"]["kernel_provisioner"]
            if provisioner["provisioner_name"] == PROVISIONER:
                config = provisioner["config"]
                kernel = RemoteKernel(name, config["ssh_host_alias"], config["remote_python"], Path(folder))
                found.append(kernel)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def remote_kernel(name: str) -> RemoteKernel:
    """Return the remote kernel of a name, or the only one on the machine of that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    kernels = remote_kernels()
    for kernel in kernels:
        if kernel.name == name:
            return kernel
    there = [kernel for kernel in kernels if name in (kernel.host, kernel.host.rpartition("@")[2])]
    if len(there) == 1:
        return there[0]
    if installed(name) is not None:
        raise UsageError(f"The kernel {name} runs on this machine", "Leave --remote out.")
    known = ", ".join(kernel.name for kernel in kernels) or "none yet"
    raise UsageError(
        f"There is no remote kernel {name!r}; there are: {known}", f"Make it: openhcs-jupyter install --remote {name}"
    )


def require_same_version(here: str, there: str, host: str, python: str = "") -> None:
    """Check that both sides are of one release.

    Raises
    ------
    RemoteError
        If not.
    """
    if here.split(".")[:2] != there.split(".")[:2]:
        install = f"{python or 'python'} -m pip install 'openhcs-jupyter=={here}'"
        raise RemoteError(
            f"openhcs-jupyter is {there} on {host} and {here} here.",
            f"Bring both to one release, there with: {install}",
        )


def quoted(path: str) -> str:
    """Write a path for a shell there; ``~/`` stays the home."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def _candidates(host: Host) -> list[str]:
    said = host.run(_FIND_PYTHON).decode(errors="replace").splitlines()
    words = (line.strip().split(" ")[0] for line in said)
    return list(dict.fromkeys(word for word in words if word.startswith("/") and not word.endswith("/env")))
