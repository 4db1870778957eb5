"""Synthetic plates whose cells are known, in the layout of an ImageXpress microscope."""

from __future__ import annotations

from openhcs_jupyter.repository.embedded.synthetic.neurites import true_neurites
from openhcs_jupyter.repository.embedded.synthetic.plate import CHANNELS, DEMO, SyntheticPlate
from openhcs_jupyter.repository.embedded.synthetic.truth import true_cells, true_labels, true_signal, true_wells
from openhcs_jupyter.repository.embedded.synthetic.write import Truth, write_plate

__all__ = [
    "CHANNELS",
    "DEMO",
    "SyntheticPlate",
    "Truth",
    "true_cells",
    "true_labels",
    "true_neurites",
    "true_signal",
    "true_wells",
    "write_plate",
]
