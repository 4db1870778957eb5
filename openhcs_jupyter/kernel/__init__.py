"""The kernelspec "OpenHCS" and the state of the machine that it runs on."""

from __future__ import annotations

from openhcs_jupyter.kernel.install import help_links, install, installed, uninstall

__all__ = ["help_links", "install", "installed", "uninstall"]
