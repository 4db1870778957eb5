"""The napari window on the user's own machine: images, labels, points and tables of runs as they arrive."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"main": ["main"], "controller": ["ViewerSession"]}
)
