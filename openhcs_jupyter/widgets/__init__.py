"""What a scientist looks at in the notebook: a run's display, the plate view, the tuner, the builder, the plates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.widgets.authoring import Authoring, build, tune
    from openhcs_jupyter.widgets.plate import PlateView, plate_view

__all__ = ["Authoring", "PlateView", "build", "plate_view", "tune"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "authoring": ["Authoring", "build", "tune"],
        "plate": ["PlateView", "plate_view"],
    },
)
