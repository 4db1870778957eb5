"""Says what there is on this machine, for an installation elsewhere that wants to start kernels here."""

from __future__ import annotations

import sys

import msgspec

from openhcs_jupyter import __version__
from openhcs_jupyter.kernel.doctor import examine
from openhcs_jupyter.kernel.findings import MARK, Probe


def main() -> int:
    """Look, and say it in one line of JSON."""
    # A keeper brings its own kernelspec.
    findings = tuple(finding for finding in examine() if finding.what != "kernelspec")
    probe = Probe(version=__version__, python=sys.executable, findings=findings)
    sys.stdout.write(MARK + msgspec.json.encode(probe).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
