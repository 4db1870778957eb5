"""Looks at the machine: what is here, what is missing, what to do."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from openhcs_jupyter.config import data_dir, load_settings
from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.kernel.findings import Finding
from openhcs_jupyter.kernel.install import KERNEL_NAME, installed

if TYPE_CHECKING:
    from openhcs_jupyter.topology import Topology

_SMALL_MEMORY, _SMALL_DISK = 4e9, 10e9


def examine() -> list[Finding]:
    """Look at everything that a run needs on this machine."""
    looks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _extras,
        _kernelspec,
        _remote_kernels,
        _machine,
        _broker,
        _settings_and_repository,
    ]
    findings: list[Finding] = []
    for look in looks:
        try:
            findings += look()
        except OpenHCSError as error:
            what = look.__name__.strip("_").replace("_", " ")
            findings.append(Finding(state="missing", what=what, found=error.message, advice=error.hint))
    return findings


def _python() -> Iterator[Finding]:
    now = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= (3, 11)
    advice = None if fits else "Use Python 3.11 or newer."
    yield Finding(state="ok" if fits else "missing", what="Python", found=f"{now} in {sys.prefix}", advice=advice)


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    wrong = []
    for text in requires("openhcs-jupyter") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        there = _version(requirement.name)
        if there is None:
            wrong.append(f"{requirement.name} is missing")
        elif there not in requirement.specifier:
            wrong.append(f"{requirement.name} is {there}, needs {requirement.specifier}")
    own = _version("openhcs-jupyter")
    if wrong:
        advice = f"{sys.executable} -m pip install --upgrade openhcs-jupyter"
        yield Finding(state="missing", what="packages", found="; ".join(wrong), advice=advice)
    else:
        yield Finding(state="ok", what="packages", found=f"openhcs-jupyter {own} with all that it needs")


def _extras() -> Iterator[Finding]:
    groups = {
        "notebook": (("jupyterlab", "nbconvert", "papermill"), "to open notebooks and run them in batches"),
    }
    for extra, (names, purpose) in groups.items():
        missing = [name for name in names if _version(name) is None]
        found = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        if missing:
            found = f"{', '.join(missing)} missing; {purpose}"
            advice = f"{sys.executable} -m pip install 'openhcs-jupyter[{extra}]'"
            yield Finding(state="optional", what=f"extra {extra}", found=found, advice=advice)
        else:
            yield Finding(state="ok", what=f"extra {extra}", found=found)


def _kernelspec() -> Iterator[Finding]:
    where = installed()
    if where is None:
        advice = "openhcs-jupyter install"
        yield Finding(state="missing", what="kernelspec", found=f"{KERNEL_NAME} is not installed", advice=advice)
        return
    spec = msgspec.json.decode((where / "kernel.json").read_bytes(), type=dict[str, object])
    argv = spec.get("argv")
    program = str(argv[0]) if isinstance(argv, list) and argv else ""
    if Path(program).is_absolute() and not Path(program).exists():
        found = f"{where} starts {program}, which is gone"
        yield Finding(state="missing", what="kernelspec", found=found, advice="openhcs-jupyter install")
    else:
        yield Finding(state="ok", what="kernelspec", found=f"{where}, starts {program}")


def _remote_kernels() -> Iterator[Finding]:
    from openhcs_jupyter.kernel.remote import remote_kernels

    for kernel in remote_kernels():
        found = f"{kernel.name} on {kernel.host}, in {kernel.folder}"
        look = f"openhcs-jupyter doctor --remote {kernel.name} looks there."
        if _version("sshpyk") is None:
            advice = f"{sys.executable} -m pip install 'openhcs-jupyter[remote]'"
            yield Finding(state="missing", what="remote kernel", found=f"{found}: sshpyk is missing", advice=advice)
        else:
            yield Finding(state="ok", what="remote kernel", found=found, advice=look)


def _machine() -> Iterator[Finding]:
    from openhcs_jupyter.topology import discover

    topology = discover()
    yield Finding(state="ok", what="cores", found=f"{topology.cores} that this process may use")
    memory = topology.memory_bytes
    small = "A field with its results must fit; larger plates do, as they stream." if memory < _SMALL_MEMORY else None
    state: Literal["ok", "optional"] = "optional" if small else "ok"
    yield Finding(state=state, what="memory", found=f"{memory / 1e9:.1f} GB", advice=small)
    yield from _gpus(topology)


def _gpus(topology: Topology) -> Iterator[Finding]:
    for note in topology.notes:
        yield Finding(state="optional", what="GPUs", found=note, advice="nvidia-smi tells what the driver knows.")
    counts = Counter(device.name for device in topology.devices)
    found = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
    missing = [name for name, package in (("nvidia-ml-py", "pynvml"), ("CuPy", "cupy")) if find_spec(package) is None]
    install = f"{sys.executable} -m pip install 'openhcs-jupyter[gpu]'"
    if found and "CuPy" in missing:
        found += "; runs compute on CPUs, as CuPy is missing"
        yield Finding(state="optional", what="GPUs", found=found, advice=install)
    elif found:
        yield Finding(state="ok", what="GPUs", found=f"{found}; %openhcs gpus tells more")
    elif "nvidia-ml-py" in missing:
        told = "not looked for: nvidia-ml-py is missing; runs compute on CPUs"
        yield Finding(state="ok", what="GPUs", found=told, advice=f"Where there is an NVIDIA GPU: {install}")
    else:
        yield Finding(state="ok", what="GPUs", found="none; runs compute on CPUs")


def _broker() -> Iterator[Finding]:
    path = load_settings().omero_broker
    if not path:
        return
    from openhcs_jupyter.repository.omero.broker.client import BrokerClient

    with BrokerClient(path, str, patience_s=0.0) as broker:
        policy = broker.policy()
    plates = "hands out images of plates" if policy.plates else "hands out no images that OMERO restricts, as of plates"
    advice = None if policy.plates else "Images of plates come through the server; --plates of the broker changes that."
    state: Literal["ok", "optional"] = "ok" if policy.plates else "optional"
    found = f"{path}, version {policy.version}, {plates}"
    yield Finding(state=state, what="OMERO broker", found=found, advice=advice)


def _settings_and_repository() -> Iterator[Finding]:
    settings = load_settings()
    folder = data_dir(settings)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    advice = f"Free some, or choose another folder: openhcs-jupyter config data_dir FOLDER ({folder})"
    if free < _SMALL_DISK:
        yield Finding(state="optional", what="disk", found=f"{free / 1e9:.1f} GB free in {there}", advice=advice)
    else:
        yield Finding(state="ok", what="disk", found=f"{free / 1e9:.0f} GB free in {there}")
    if settings.repository in ("default", "demo") and not folder.exists():
        advice = "openhcs-jupyter import FOLDER registers a plate; openhcs-jupyter demo-plate FOLDER makes one."
        yield Finding(state="optional", what="repository", found=f"{folder} is not there yet", advice=advice)
        return
    from openhcs_jupyter.repository import connect

    with connect(settings.repository) as repository:
        plates = repository.plates()
        gone = [plate for plate in plates if not Path(plate.source).exists()]
        found = f"{repository.uri}, {len(plates)} plates"
        if gone:
            names = ", ".join(f"{plate.name} ({plate.source})" for plate in gone[:3])
            found += f"; gone from the disk: {names}"
            yield Finding(state="missing", what="repository", found=found, advice="Mount or import these plates again.")
        elif not plates:
            yield Finding(state="optional", what="repository", found=found, advice="openhcs-jupyter import FOLDER")
        else:
            yield Finding(state="ok", what="repository", found=found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
