"""What a scientist looks at in the notebook: a run's display, the plate view, the tuner, the builder, the plates."""

from __future__ import annotations

from openhcs_jupyter.widgets.authoring import Authoring, build, tune
from openhcs_jupyter.widgets.plate import PlateView, plate_view

__all__ = ["Authoring", "PlateView", "build", "plate_view", "tune"]
