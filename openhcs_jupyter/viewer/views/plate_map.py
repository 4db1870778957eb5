"""The plate as a grid of wells, coloured by how far each is; a click goes to a well."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPixmap
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from openhcs_jupyter.model import parse_well, well_name
from openhcs_jupyter.viewer.models.runs import WellLook, WellState

COLOURS: dict[WellState, str] = {"waiting": "#5b616b", "working": "#7db4ff", "done": "#2f80ed", "failed": "#ff8a3d"}
_EMPTY = QColor(255, 255, 255, 26)
_TEXT = QColor(200, 205, 212)
_CURRENT = QColor(255, 255, 255)
_MARGIN = 18
_LARGEST_PX = 30
_LABELLED_PX = 11
_STEPS = {Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1), Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0)}


class PlateMap(QWidget):  # type: ignore[misc]  # the base is not typed
    """Draws the wells of a plate."""

    clicked = Signal(str)
    """The name of the well that was clicked."""

    def __init__(self) -> None:
        super().__init__()
        self._rows, self._columns = 8, 12
        self._wells: dict[tuple[int, int], WellLook] = {}
        self._looks: dict[str, WellLook] = {}
        """The same, by name, as it was told."""
        self._current: str | None = None
        self._drawn: QPixmap | None = None
        """The wells as they were drawn last; None when they have changed."""
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setAccessibleName("Plate map")

    def show_plate(self, rows: int, columns: int, wells: Mapping[str, WellLook]) -> None:
        """Show a plate's wells; those that are not among `wells` are not in the run."""
        if (rows, columns) != (self._rows, self._columns):
            self._rows, self._columns = rows, columns
            self.updateGeometry()
        if wells != self._looks:
            self._looks = dict(wells)
            self._wells = {parse_well(name): look for name, look in wells.items()}
            self._drawn = None
            self.update()

    def show_current(self, well: str | None) -> None:
        """Mark the well that is looked at."""
        if well != self._current:
            self._current = well
            self.update()

    def well_at(self, x: float, y: float) -> str | None:
        """Name the well of the run at a place of the widget."""
        side = self._side(self.width())
        row, column = int((y - _MARGIN) // side), int((x - _MARGIN) // side)
        return well_name(row, column) if (row, column) in self._wells else None

    def centre_of(self, well: str) -> tuple[int, int]:
        """Return the place ``(x, y)`` of a well's centre in the widget."""
        row, column = parse_well(well)
        side = self._side(self.width())
        return int(_MARGIN + (column + 0.5) * side), int(_MARGIN + (row + 0.5) * side)

    def tip_of(self, well: str) -> str:
        """Say how far a well is, and why it failed, as HTML: what the run says is text and nothing else."""
        look = self._wells[parse_well(well)]
        why = f"<br>{escape(look.reason, quote=False)}" if look.reason else ""
        return f"<qt>{escape(look.text)}{why}</qt>"

    def hasHeightForWidth(self) -> bool:
        """Say that the height follows from the width."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Return the height of the whole plate."""
        return int(_MARGIN + self._rows * self._side(width) + 4)

    def sizeHint(self) -> QSize:
        """Return the size that is comfortable."""
        return QSize(330, self.heightForWidth(330))

    def minimumSizeHint(self) -> QSize:
        """Return the least size."""
        return QSize(220, self.heightForWidth(220))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002 - the interface has it
        """Draw the wells."""
        ratio = self.devicePixelRatioF()
        if self._drawn is None or self._drawn.size() != self.size() * ratio:
            self._drawn = QPixmap(self.size() * ratio)
            self._drawn.setDevicePixelRatio(ratio)
            self._drawn.fill(Qt.GlobalColor.transparent)
            self._draw_wells(self._drawn)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.drawPixmap(0, 0, self._drawn)
        if self._current:
            side = self._side(self.width())
            row, column = parse_well(self._current)
            painter.setPen(QPen(_CURRENT, max(1.5, side * 0.09)))
            painter.drawEllipse(self._centre(row, column, side), side * 0.46, side * 0.46)
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the well that is clicked."""
        well = self.well_at(event.position().x(), event.position().y())
        if well is not None:
            self.clicked.emit(well)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what the well below the mouse is."""
        well = self.well_at(event.position().x(), event.position().y())
        self.setCursor(Qt.CursorShape.PointingHandCursor if well else Qt.CursorShape.ArrowCursor)
        if well is None:
            QToolTip.hideText()
        else:
            QToolTip.showText(event.globalPosition().toPoint(), self.tip_of(well), self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go to the next well of the run in the direction of an arrow key."""
        step = _STEPS.get(event.key())
        if step is None or self._current is None:
            super().keyPressEvent(event)
            return
        row, column = parse_well(self._current)
        while 0 <= row < self._rows and 0 <= column < self._columns:
            row, column = row + step[0], column + step[1]
            if (row, column) in self._wells:
                self.clicked.emit(well_name(row, column))
                return

    def _side(self, width: int) -> float:
        return max(3.0, min(_LARGEST_PX, (width - _MARGIN - 4) / self._columns))

    def _centre(self, row: int, column: int, side: float) -> QPointF:
        return QPointF(_MARGIN + (column + 0.5) * side, _MARGIN + (row + 0.5) * side)

    def _draw_wells(self, canvas: QPixmap) -> None:
        painter = QPainter(canvas)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        side = self._side(self.width())
        self._draw_names(painter, side)
        for row in range(self._rows):
            for column in range(self._columns):
                centre = self._centre(row, column, side)
                self._draw_well(painter, centre, side * 0.42, self._wells.get((row, column)))
        painter.end()

    def _draw_names(self, painter: QPainter, side: float) -> None:
        font = painter.font()
        font.setPixelSize(int(min(11, max(8, side * 0.6))))
        painter.setFont(font)
        painter.setPen(_TEXT)
        # Of small wells not every row and column is named, so that the names do not touch.
        every = 1 if side >= 2 * _LABELLED_PX else 2 if side >= _LABELLED_PX else 4
        middle = Qt.AlignmentFlag.AlignCenter
        for column in range(0, self._columns, every):
            centre = _MARGIN + (column + 0.5) * side
            painter.drawText(QRectF(centre - 14, 0, 28, _MARGIN - 2), middle, str(column + 1))
        for row in range(0, self._rows, 1 if side >= _LABELLED_PX else every):
            centre = _MARGIN + (row + 0.5) * side
            painter.drawText(QRectF(0, centre - 8, _MARGIN - 2, 16), middle, well_name(row, 0)[:-2])

    def _draw_well(self, painter: QPainter, centre: QPointF, radius: float, look: WellLook | None) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        if look is None:
            painter.setBrush(_EMPTY)
            painter.drawEllipse(centre, radius * 0.55, radius * 0.55)
            return
        ground = COLOURS["waiting"] if look.state == "working" else COLOURS[look.state]
        painter.setBrush(QColor(ground))
        painter.drawEllipse(centre, radius, radius)
        if look.state == "working":
            painter.setBrush(QColor(COLOURS["working"]))
            square = QRectF(centre.x() - radius, centre.y() - radius, 2 * radius, 2 * radius)
            painter.drawPie(square, 90 * 16, -round(360 * 16 * look.part))
