"""The docked panel: runs, progress, connection, plate map and how fields are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple, get_args

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from openhcs_jupyter.model import RunStatus
from openhcs_jupyter.streaming.layers import Link
from openhcs_jupyter.viewer.models.layout import Mode
from openhcs_jupyter.viewer.models.runs import WellLook, WellState
from openhcs_jupyter.viewer.views.plate_map import COLOURS, PlateMap

_LINKS: dict[Link, tuple[str, str]] = {
    "local": ("#35c46a", "Reading from this machine"),
    "connecting": ("#f2c037", "Connecting …"),
    "connected": ("#35c46a", "Connected"),
    "lost": ("#f2c037", "Connection lost; trying again"),
    "refused": ("#ff5c4d", "Refused"),
    "closed": ("#9aa0a6", "Closed"),
}
_MODES: dict[Mode, tuple[str, str]] = {
    "field": ("Field", "One field at a time"),
    "well": ("Well", "All fields of a well, by their stage positions"),
    "plate": ("Plate", "All wells"),
}
_BARS: dict[RunStatus, str] = {
    "running": COLOURS["done"],
    "done": "#35c46a",
    "failed": COLOURS["failed"],
    "cancelled": "#9aa0a6",
    "interrupted": COLOURS["failed"],
}


class RunLook(NamedTuple):
    """What the panel says of a run."""

    status: RunStatus
    done: int
    failed: int
    units: int
    sentence: str
    message: str
    """Why it failed or stopped; empty where it did not."""


class Panel(QWidget):  # type: ignore[misc]  # the base is not typed
    """Shows what it is told, and tells what was clicked."""

    well_clicked = Signal(str)
    mode_chosen = Signal(str)
    run_chosen = Signal(str)
    follow_changed = Signal(bool)
    folder_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("openhcs-panel")
        self._link = QLabel()
        self._link.setTextFormat(Qt.TextFormat.RichText)
        self._link.setWordWrap(True)
        self.runs = QComboBox()
        self.runs.setToolTip("The run whose layers are shown")
        self.runs.activated.connect(lambda index: self.run_chosen.emit(self.runs.itemData(index)))
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.sentence = _text()
        self.message = _text()
        self.plate_map = PlateMap()
        self.plate_map.clicked.connect(self.well_clicked)
        self.place = QLabel()
        self.place.setStyleSheet("font-size: 15px; font-weight: 600;")
        self.reason = _text()
        """Why the well that is looked at failed."""
        self.reason.setStyleSheet(f"color: {COLOURS['failed']};")
        self.follow = QCheckBox("Follow the run")
        self.follow.setToolTip("Go to each field as its results arrive")
        self.follow.toggled.connect(self.follow_changed)
        self._open = QPushButton("Open a run folder …")
        self._open.clicked.connect(self._choose_folder)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 8, 10, 8)
        layout.setSpacing(7)
        for widget in (self._open, self._link, self.runs, self.bar, self.sentence, self.message):
            layout.addWidget(widget)
        layout.addSpacing(4)
        layout.addWidget(self.plate_map)
        layout.addWidget(_legend())
        layout.addSpacing(4)
        layout.addWidget(self.place)
        layout.addWidget(self.reason)
        layout.addLayout(self._mode_buttons())
        layout.addWidget(self.follow)
        layout.addStretch(1)
        self.setMinimumWidth(300)
        self._follow_runs(shown=False)

    def show_runs(self, runs: Sequence[tuple[str, str]], chosen: str | None) -> None:
        """List the runs, each an id and a text."""
        if [(self.runs.itemData(i), self.runs.itemText(i)) for i in range(self.runs.count())] != list(runs):
            self.runs.clear()
            for run, text in runs:
                self.runs.addItem(text, run)
        self.runs.setCurrentIndex(next((i for i, (run, _) in enumerate(runs) if run == chosen), -1))
        self._follow_runs(shown=bool(runs))

    def show_run(self, look: RunLook) -> None:
        """Say how far the chosen run is."""
        self.bar.setMaximum(max(1, look.units))
        self.bar.setValue(look.done + look.failed)
        colour = COLOURS["failed"] if look.failed else _BARS[look.status]
        self.bar.setStyleSheet(
            "QProgressBar { border: none; border-radius: 4px; background: rgba(255,255,255,28); }"
            f"QProgressBar::chunk {{ border-radius: 4px; background: {colour}; }}"
        )
        self.sentence.setText(look.sentence)
        self.message.setText(look.message)
        self.message.setVisible(bool(look.message))

    def show_link(self, link: Link, detail: str) -> None:
        """Say how the viewer stands to where the runs are."""
        colour, text = _LINKS[link]
        said = escape(f"{text}: {detail}" if detail else text, quote=False)
        self._link.setText(f'<span style="color:{colour}">●</span> {said}')
        self._open.setVisible(False)

    def show_wells(self, rows: int, columns: int, wells: Mapping[str, WellLook]) -> None:
        """Colour the plate map."""
        self.plate_map.show_plate(rows, columns, wells)

    def show_place(self, well: str | None, text: str, reason: str = "") -> None:
        """Say where the sliders stand, and why the well there failed."""
        self.plate_map.show_current(well)
        self.place.setText(text)
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason))

    def show_mode(self, mode: Mode) -> None:
        """Press the button of the layout."""
        self._modes[mode].setChecked(True)

    @property
    def link_text(self) -> str:
        """What is said of the connection."""
        return self._link.text()  # type: ignore[no-any-return]  # the library is not typed

    def mode_button(self, mode: Mode) -> QPushButton:
        """Return the button that chooses a layout."""
        return self._modes[mode]

    def _mode_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(0)
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        self._modes: dict[Mode, QPushButton] = {}
        for mode in get_args(Mode):
            text, tip = _MODES[mode]
            button = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.setStyleSheet(f"QPushButton:checked {{ background: {COLOURS['done']}; color: white; }}")
            button.clicked.connect(lambda _, chosen=mode: self.mode_chosen.emit(chosen))
            self._group.addButton(button)
            self._modes[mode] = button
            row.addWidget(button)
        self._modes["field"].setChecked(True)
        return row

    def _follow_runs(self, *, shown: bool) -> None:
        for widget in (self.runs, self.bar, self.sentence, self.plate_map, self.place, self.follow):
            widget.setVisible(shown)
        for said in (self.message, self.reason):
            said.setVisible(shown and bool(said.text()))
        for button in self._modes.values():
            button.setVisible(shown)

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a run folder")
        if folder:
            self.folder_chosen.emit(folder)


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def _legend() -> QLabel:
    words: dict[WellState, str] = {"waiting": "waiting", "working": "in part", "done": "done", "failed": "failed"}
    dots = (f'<span style="color:{COLOURS[state]}">●</span> {text}' for state, text in words.items())
    label = QLabel("&nbsp;&nbsp; ".join(dots))
    label.setTextFormat(Qt.TextFormat.RichText)
    return label
