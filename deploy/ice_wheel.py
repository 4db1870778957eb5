"""Builds the wheel of Ice 3.6 that omero-py needs on Python 3.11 and newer: ``python deploy/ice_wheel.py FOLDER``.

PyPI has only its source, which stops building at Python 3.11 in two places; both are mended here. It takes a C++
compiler, the headers of Python, OpenSSL and bzip2 (Debian: g++ python3-dev libssl-dev libbz2-dev), and five to ten
minutes of one core.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.6.5"
SHA256 = "4235ffeb605bcd4e22e716577f7d61e4aa1bc82f65276bb542701a81b7933356"
MENDS = {
    # The header is gone, and nothing of it was used.
    "src/Slice.cpp": ("#include <eval.h>\n", ""),
    # The thread's state became opaque; the function returns a new reference.
    "src/Util.cpp": (
        "PyFrameObject *f = PyThreadState_GET()->frame;",
        "PyObjectHandle frame = (PyObject*)PyThreadState_GetFrame(PyThreadState_Get()); PyObject *f = frame.get();",
    ),
}


def main() -> int:
    """Build the wheel unless the folder has it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheel is put")
    folder = parser.parse_args().folder.expanduser().resolve()
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    there = sorted(folder.glob(f"zeroc_ice-{VERSION}-{tag}-*.whl"))
    if there:
        print(f"The wheel is there: {there[0]}")
        return 0
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        print("No C++ compiler is here. Debian: apt-get install g++ python3-dev libssl-dev libbz2-dev", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ice-") as work:
        source = mended_source(Path(work))
        print(f"Building the wheel of Ice {VERSION} for {tag}; this takes five to ten minutes ...", flush=True)
        environment = os.environ | {"CFLAGS": "-g0 -O2"}
        done = subprocess.run([*_pip("wheel"), "--wheel-dir", f"{work}/wheel", source], env=environment, check=False)
        if done.returncode != 0:
            needed = "the headers of Python, OpenSSL and bzip2 (Debian: python3-dev libssl-dev libbz2-dev)"
            print(f"The wheel could not be built. It needs {needed}.", file=sys.stderr)
            return 1
        (wheel,) = Path(work, "wheel").glob("*.whl")
        partial = folder / f".{wheel.name}.{os.getpid()}"
        shutil.copyfile(wheel, partial)
        partial.replace(folder / wheel.name)
    print(f"{folder / wheel.name}")
    return 0


def mended_source(work: Path) -> Path:
    """Fetch the source from the package index, check that it is the one that is known, and mend it."""
    pin = f"zeroc-ice=={VERSION}"
    subprocess.run([*_pip("download"), "--no-binary", "zeroc-ice", "--dest", work, pin], check=True)
    archive = work / f"zeroc-ice-{VERSION}.tar.gz"
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{archive.name} has the SHA-256 {found}, not {SHA256}: it is another source.")
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    source = work / f"zeroc-ice-{VERSION}"
    for name, (old, new) in MENDS.items():
        path = source / name
        text = path.read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{name} does not hold {old.strip()!r} once.")
        path.write_text(text.replace(old, new))
    return source


def _pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps"]


if __name__ == "__main__":
    sys.exit(main())
