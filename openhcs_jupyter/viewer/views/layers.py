"""Layers of napari: one for each layer of a run, made once and painted again when planes arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from openhcs_jupyter.viewer.models.axes import AXIS_LABELS
from openhcs_jupyter.viewer.models.layout import pixel_um
from openhcs_jupyter.viewer.models.scene import Region, Scene

if TYPE_CHECKING:
    import pandas as pd

_UNITS = ("pixel", "pixel", "pixel", "um", "um", "um")
_LABEL_OPACITY = 0.4
"""So that the image below is seen. Outlines would show more of it, but napari takes four times as long to make them."""
_POINT_UM = 3.0


class PixelView:
    """A layer of planes.

    Parameters
    ----------
    layer
        napari's layer.
    scene
        What it shows.
    """

    def __init__(self, layer: Any, scene: Scene) -> None:
        self.layer = layer
        self.scene = scene
        self.thumbnail_is_old = True

    def show(self, scene: Scene) -> None:
        """Show another arrangement of the same planes."""
        self.scene = scene
        self.layer.data = list(scene.levels)
        # Also where the layer is hidden this tells the sliders how far they reach now.
        placed = _placed(scene)
        self.layer.scale, self.layer.translate = placed["scale"], placed["translate"]

    def repaint(self) -> None:
        """Paint what the store now holds; nothing else of the layer is looked at."""
        self.thumbnail_is_old = True
        self.layer.refresh(thumbnail=False, extent=False, highlight=False)

    def repaint_thumbnail(self) -> None:
        """Bring the small picture in the list of layers up to date."""
        self.thumbnail_is_old = False
        self.layer.refresh(thumbnail=True, data_displayed=False, extent=False, highlight=False)

    def region(self) -> tuple[int, Region]:
        """Return the level that is shown, and the region of it that lies in the window."""
        corners = self.layer.corner_pixels
        y, x = (slice(int(corners[0, axis]), int(corners[1, axis]) + 1) for axis in (-2, -1))
        return int(self.layer.data_level), (y, x)


class ImageView(PixelView):
    """A channel of an image."""

    def __init__(self, name: str, scene: Scene, colour: str, *, visible: bool) -> None:
        from napari.layers import Image
        from napari.utils.colormaps import Colormap

        brightest = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        layer = Image(
            list(scene.levels),
            multiscale=True,
            name=name,
            colormap=Colormap([[0, 0, 0], brightest], name=f"#{colour}"),
            # They must be given, or napari reads the whole array for them.
            contrast_limits=(0, np.iinfo(scene.dtype).max) if scene.dtype.kind in "ui" else (0, 1),
            blending="additive",
            visible=visible,
            **_placed(scene),
        )
        super().__init__(layer, scene)
        self.touched = False
        """The user has set the contrast."""
        self._setting = False
        layer.events.contrast_limits.connect(self._changed)

    def set_limits(self, low: float, high: float) -> None:
        """Set the contrast, and a range around it in which the slider moves finely."""
        span = high - low
        bottom = min(0.0, low) if self.scene.dtype.kind == "u" else low - span
        self._setting = True
        self.layer.contrast_limits_range = (bottom, high + span)
        self.layer.contrast_limits = (low, high)
        self._setting = False

    def _changed(self) -> None:
        self.touched = self.touched or not self._setting


class LabelsView(PixelView):
    """Labels over their image."""

    def __init__(self, name: str, scene: Scene, *, visible: bool) -> None:
        from napari.layers import Labels

        layer = Labels(
            list(scene.levels), multiscale=True, name=name, opacity=_LABEL_OPACITY, visible=visible, **_placed(scene)
        )
        layer.editable = False
        super().__init__(layer, scene)

    def set_features(self, frame: pd.DataFrame) -> None:
        """Say what is known of each label; a column ``index`` names the labels."""
        self.layer.features = frame


class PointsView:
    """The points of the place that is looked at. It has no sliders, so they are shown wherever those stand."""

    def __init__(self, name: str, pixel_size_um: float, *, visible: bool) -> None:
        from napari.layers import Points

        self.layer: Any = Points(
            np.zeros((0, 2)),
            name=name,
            size=_POINT_UM / pixel_size_um,
            face_color="transparent",
            border_color="#ffd43b",
            border_width=0.12,
            opacity=0.8,
            scale=(pixel_size_um, pixel_size_um),
            translate=(pixel_size_um / 2, pixel_size_um / 2),
            units=_UNITS[-2:],
            axis_labels=AXIS_LABELS[-2:],
            visible=visible,
        )
        self.layer.editable = False

    def clear(self) -> None:
        """Show none, until `set_points` is called again."""
        self.layer.data = np.zeros((0, 2))

    def set_points(self, frame: pd.DataFrame) -> None:
        """Show points, columns ``y`` and ``x``, with their other columns as features."""
        self.layer.selected_data = set()
        self.layer.data = frame[["y", "x"]].to_numpy(float)
        self.layer.features = frame.drop(columns=["y", "x"])


def _placed(scene: Scene) -> dict[str, Any]:
    size = pixel_um(scene.layer)
    return {
        "scale": (1, 1, 1, scene.axes.z_step_um or 1.0, size, size),
        # Napari puts the centre of the first pixel at 0; edges of small and large pixels are to lie over each other.
        "translate": (0, 0, 0, 0, size / 2, size / 2),
        "units": _UNITS,
        "axis_labels": AXIS_LABELS,
    }
