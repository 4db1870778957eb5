"""What a scientist looks at in the notebook: a run's display, the plate view, the tuner, the builder, the plates."""

from __future__ import annotations
