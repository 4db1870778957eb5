"""The one place that knows both what is known and what is seen: it hears, fetches, and paints what changed."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.streaming import open_source
from openhcs_jupyter.streaming.layers import (
    AnyAnnouncement,
    LayerKnown,
    LinkChanged,
    Progressed,
    RunAnnounced,
    RunView,
    StackReady,
    TableReady,
)
from openhcs_jupyter.streaming.source import Priority, Source
from openhcs_jupyter.viewer.models.feed import Feed
from openhcs_jupyter.viewer.models.fetching import Wish
from openhcs_jupyter.viewer.models.layout import Mode
from openhcs_jupyter.viewer.models.objects import feature_frame, point_frame
from openhcs_jupyter.viewer.models.planes import PlaneKey, PlaneStore
from openhcs_jupyter.viewer.models.runs import RunModel
from openhcs_jupyter.viewer.views.layers import ImageView, LabelsView
from openhcs_jupyter.viewer.views.panel import Panel, RunLook
from openhcs_jupyter.viewer.window import Look, Ref, Window

TICK_MS = 33
BUDGET_BYTES = 1 << 29
_HEARING_S = 0.008
"""Of a tick at most, for what sources say."""
_PANEL_S = 0.2
_THUMBNAIL_S = 0.7
_FOLLOW_S = 1.0
_CALM_TICKS = 5
_SESSIONS: dict[int, ViewerSession] = {}


class ViewerSession:
    """Shows runs in a napari window, for as long as the window is open.

    Parameters
    ----------
    viewer
        napari's.
    budget
        Bytes of planes that are held at most.
    """

    def __init__(self, viewer: Any, budget: int = BUDGET_BYTES) -> None:
        self.store = PlaneStore(budget)
        self.runs: dict[str, RunModel] = {}
        self.window = Window(viewer, self.store, self.runs)
        self.panel = Panel()
        self.chosen: str | None = None
        """Id of the run that the panel tells of."""
        self.feeds: list[Feed] = []
        self._feed_of: dict[str, Feed] = {}
        self._unmade: dict[Ref, None] = {}
        """Layers that are to be made or brought up to date, in order."""
        self._looks: tuple[Look, ...] = ()
        self._visible: dict[PlaneKey, int] = {}
        """The planes that are looked at, and at which level."""
        self._stacks: dict[tuple[str, int, int, int], list[PlaneKey]] = {}
        """The same, by run, layer, well and field."""
        self._moved = self._follows = False
        self._old = {"panel": True, "objects": True}
        self._times = dict.fromkeys(("panel", "paint", "follow"), 0.0)
        self._closing: list[threading.Thread] = []
        self._connect()
        self._timer = QTimer(self.panel)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.tick)
        self._timer.start()

    @classmethod
    def of(cls, viewer: Any, *, dock: bool = True) -> ViewerSession:
        """Return the session of a napari window; made where there is none yet.

        Parameters
        ----------
        viewer
            napari's.
        dock
            Dock its panel. Otherwise it is taken out of where it is, for whoever calls to dock it.
        """
        session = _SESSIONS.get(id(viewer))
        if session is None:
            session = _SESSIONS[id(viewer)] = cls(viewer)
            if dock:
                viewer.window.add_dock_widget(session.panel, name="OpenHCS", area="right")
        elif not dock:
            with contextlib.suppress(LookupError):
                viewer.window.remove_dock_widget(session.panel)
                QTimer.singleShot(0, session.panel.show)  # Qt hides what is taken out; by then it is docked again
        return session

    def add(self, source: Source) -> None:
        """Show the runs of a source, too; it is started here and closed with the window."""
        self.feeds.append(Feed(source, self.store))

    def open(self, folder: str) -> None:
        """Show the run of a folder; where it is none, the panel says so."""
        try:
            self.add(open_source(folder))
        except OpenHCSError as error:
            self.panel.show_link("refused", str(error))

    def go(self, well: str, field: int | None = None) -> None:
        """Go to a well, and to one of its fields by its number."""
        self._moved = True
        self.window.go(well, field)
        self.window.centre(well)
        self._old["panel"] = True

    def arrange(self, mode: Mode) -> None:
        """Show one field at a time, the mosaic of a well, or the plate."""
        self.window.arrange(mode)
        self.panel.show_mode(mode)
        self._old = dict.fromkeys(self._old, True)

    def choose(self, run: str) -> None:
        """Show the layers of one run."""
        self.chosen = run
        self.window.choose(run)
        self._old = dict.fromkeys(self._old, True)

    def follow(self, on: bool) -> None:
        """Go to each field as its results arrive, or stay."""
        self._follows = on

    def close(self) -> None:
        """End the session; what it holds of the network ends in the background."""
        with contextlib.suppress(RuntimeError):  # Qt may have deleted it with the window
            self._timer.stop()
        _SESSIONS.pop(id(self.window.viewer), None)
        self._closing += [feed.close() for feed in self.feeds]
        self.feeds = []

    def wait_closed(self, timeout_s: float) -> None:
        """Wait until everything has ended, up to a time."""
        end = time.monotonic() + timeout_s
        for thread in self._closing:
            thread.join(max(0.0, end - time.monotonic()))

    @property
    def is_settled(self) -> bool:
        """Whether everything that is known and looked at has been fetched and painted."""
        fetched = all(not feed.heard and feed.planes.is_idle and feed.rows.is_idle for feed in self.feeds)
        return fetched and not self._unmade and not any(self._old.values()) and self._looks == self.window.looks()

    def settle(self, timeout_s: float = 60.0) -> None:
        """Let the window work until everything in sight is painted, for scripts that take pictures.

        Parameters
        ----------
        timeout_s
            How long that may take.

        Raises
        ------
        TimeoutError
            If it takes longer, as where the run has no results yet.
        """
        end = time.monotonic() + timeout_s
        calm = 0
        while calm < _CALM_TICKS:
            if time.monotonic() > end:
                raise TimeoutError(f"The viewer has not come to rest within {timeout_s:g} s.")
            QApplication.processEvents()
            self.window.draw()
            self.tick()
            calm = calm + 1 if self.window.pixels and self.is_settled else 0
            time.sleep(TICK_MS / 10_000)

    def tick(self) -> None:
        """Take what has happened and paint it; the only thing that does."""
        now = time.monotonic()
        self._hear(time.perf_counter() + _HEARING_S)
        if self._unmade:
            # One a tick: napari takes a while to make one, and the window stays usable between them.
            ref = next(iter(self._unmade))
            del self._unmade[ref]
            self._make(ref)
        self._paint(now)
        self._look()
        if self._old["objects"] or any(feed.rows.take_news() for feed in self.feeds):
            self._show_objects()
        if now - self._times["follow"] > _FOLLOW_S and (self._follows or self._sees_nothing()):
            self._times["follow"] = now
            self._follow_run()
        if self._old["panel"] and now - self._times["panel"] > _PANEL_S:
            self._times["panel"] = now
            self._show_panel()

    def _connect(self) -> None:
        panel = self.panel
        panel.well_clicked.connect(self.go)
        panel.mode_chosen.connect(self.arrange)
        panel.run_chosen.connect(self.choose)
        panel.follow_changed.connect(self.follow)
        self.window.viewer.dims.events.point.connect(self._slid)
        panel.folder_chosen.connect(self.open)
        panel.destroyed.connect(self.close)

    def _slid(self) -> None:
        self._moved = self._moved or not self.window.is_going
        self.window.follow_sliders()
        self._old = dict.fromkeys(self._old, True)

    # What sources say.

    def _hear(self, until: float) -> None:
        for feed in self.feeds:
            while feed.heard and time.perf_counter() < until:
                self._take(feed, feed.heard.popleft())

    def _take(self, feed: Feed, said: AnyAnnouncement) -> None:
        self._old["panel"] = self._old["panel"] or not isinstance(said, StackReady | TableReady)
        match said:
            case LinkChanged():
                feed.link, feed.detail = said.link, said.detail
                self._looks = ()
            case RunAnnounced():
                self._take_run(feed, said.view)
            case LayerKnown() if said.run in self.runs:
                self.runs[said.run].know(said.layer)
                self._unmade[said.run, said.layer.index] = None
            case StackReady() if said.run in self.runs:
                self._take_stack(feed, said)
            case TableReady() if said.run in self.runs:
                self.runs[said.run].table(said)
                self._old["objects"] = True
            case Progressed() if said.run in self.runs:
                self.runs[said.run].progress(said, time.monotonic())

    def _take_run(self, feed: Feed, view: RunView) -> None:
        known = view.id in self.runs
        self.runs[view.id] = RunModel(view)
        self._feed_of[view.id] = feed
        if self.chosen is None:
            self.chosen = view.id
        for layer in view.layers:
            if layer.is_known or layer.kind == "points":
                self._unmade[view.id, layer.index] = None
        if known:
            self.store.forget_run(view.id)
            self.window.forget(view.id)
            self._looks = ()

    def _take_stack(self, feed: Feed, ready: StackReady) -> None:
        run = self.runs[ready.run]
        contrast_moved = run.stack(ready)
        shown = self.window.pixels.get((ready.run, ready.layer))
        if contrast_moved and isinstance(shown, ImageView):
            self._set_contrast(run, ready.layer, shown)
        wanted = self._stacks.get((ready.run, ready.layer, ready.well, ready.field), ())
        if wanted:
            wishes = [wish for key in wanted if (wish := self._wish(key, self._visible[key])) is not None]
            feed.planes.add(wishes, coarse_first=feed.link != "local")

    # What is seen.

    def _make(self, ref: Ref) -> None:
        run, index = ref
        self.window.add(run, index, visible=run == self.chosen)
        shown = self.window.pixels.get(ref)
        if isinstance(shown, ImageView):
            self._set_contrast(self.runs[run], index, shown)
        self._old = dict.fromkeys(self._old, True)

    def _set_contrast(self, run: RunModel, layer: int, shown: ImageView) -> None:
        contrast = run.contrasts.get(layer)
        if contrast is not None and contrast.limits is not None and not shown.touched:
            shown.set_limits(*contrast.limits)

    def _paint(self, now: float) -> None:
        arrived: set[PlaneKey] = set()
        for feed in self.feeds:
            arrived |= feed.planes.take_arrived()
            self._old["panel"] = feed.planes.take_troubled() or self._old["panel"]
        if arrived:
            self._times["paint"] = now
            self.window.spoil(arrived)
        elif now - self._times["paint"] > _THUMBNAIL_S:
            old = (shown for shown in self.window.pixels.values() if shown.thumbnail_is_old and shown.layer.visible)
            if (shown := next(old, None)) is not None:
                shown.repaint_thumbnail()

    def _look(self) -> None:
        """Wish for what is looked at, when that has changed."""
        withdrawn = [feed.planes.take_again() for feed in self.feeds]
        looks = self.window.looks()
        if looks == self._looks and not any(withdrawn):
            return
        self._looks = looks
        by_layer = [[(key, look.level) for key in self.window.planes(look)] for look in looks]
        # All layers of a field come before the next field.
        self._visible = dict(one for ones in itertools.zip_longest(*by_layer) for one in ones if one is not None)
        self._stacks = {}
        for key in self._visible:
            self._stacks.setdefault(key[:4], []).append(key)
        wishes = [self._wish(key, level) for key, level in self._visible.items()]
        for look in looks:
            wishes += [self._wish(key, look.level, Priority.NEXT) for key in self.window.neighbours(look)]
        for feed in self.feeds:
            mine = [wish for wish in wishes if wish is not None and self._feed_of[wish.key.run] is feed]
            feed.planes.wish(mine, coarse_first=feed.link != "local")

    def _wish(self, key: PlaneKey, level: int, priority: Priority = Priority.VISIBLE) -> Wish | None:
        """Return the wish for a plane that can be had and is not held."""
        run = self.runs[key.run]
        ready = run.stacks.get((key.layer, key.well, key.field))
        if ready is None or key.t >= ready.size_t or key.z >= ready.size_z:
            return None
        if self.store.has(key, level, ready.version):
            return None
        return Wish(key, level, ready.version, run.view.layers[key.layer].kind == "labels", priority)

    def _sees_nothing(self) -> bool:
        """Tell whether the window still stands where it was opened, and nothing has arrived there."""
        run = self.runs.get(self.chosen or "")
        if self._moved or run is None or run.latest is None or not self._visible:
            return False
        return not any((key.layer, key.well, key.field) in run.stacks for key in self._visible)

    def _follow_run(self) -> None:
        run = self.runs.get(self.chosen or "")
        if run is not None and run.latest is not None:
            _, well, field = run.latest
            number = run.view.fields[field] if field < len(run.view.fields) else None
            self.window.go(run.view.wells[well].name, number)

    def _show_objects(self) -> None:
        """Give labels the rows of the tables made of them, and points their places."""
        self._old["objects"] = False
        position = self.window.position
        for (name, _), shown in self.window.pixels.items():
            if isinstance(shown, LabelsView) and shown.layer.visible:
                run = self.runs[name]
                shown.set_features(feature_frame(run, shown.scene, position, self._feed_of[name].rows.get))
        for (name, index), points in self.window.points.items():
            run = self.runs[name]
            layer = run.view.layers[index]
            tiles = self.window.tiles(run.view, layer)
            points.set_points(point_frame(run, layer, tiles, position, self._feed_of[name].rows.get))

    def _show_panel(self) -> None:
        self._old["panel"] = False
        panel, window = self.panel, self.window
        if self.feeds:
            worst = max(self.feeds, key=lambda feed: feed.link not in ("local", "connected"))
            panel.show_link(worst.link, worst.detail)
        panel.show_runs(
            [(run.view.id, f"{run.view.name} · {run.view.plate}") for run in self.runs.values()], self.chosen
        )
        run = self.runs.get(self.chosen or "")
        if run is None:
            return
        trouble = self._feed_of[run.view.id].planes.trouble
        message = "\n".join(text for text in (run.message, trouble) if text)
        panel.show_run(RunLook(run.status, run.done, run.failed, run.view.units, run.sentence(), message))
        panel.show_wells(run.view.rows, run.view.columns, run.wells)
        look = run.wells.get(window.well or "")
        panel.show_place(window.well, window.place_text(), look.reason if look is not None else "")
        window.show_place()
