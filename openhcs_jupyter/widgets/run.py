"""The display of a run that goes on: one widget, sent what has changed a few times a second."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.results import picture_of
from openhcs_jupyter.widgets.usage import Usage
from openhcs_jupyter.widgets.wells import Finished, WellStates

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.model import ResultSpec

_INTERVAL_S = 0.2
_PICTURE_S, _PICTURE_SIDE, _UNANSWERED = 2.0, 200, 2
_USAGE_S = 3.0
_KEPT = 3

Sentence = Callable[["Run"], str]


class RunDisplay:
    """Shows one run in the browser.

    Parameters
    ----------
    run
        Of any status.
    sentence
        Says how far the run is.
    """

    def __init__(self, run: Run, sentence: Sentence) -> None:
        from openhcs_jupyter.widgets.canvas import RunCanvas

        self._run = run
        self._sentence = sentence
        self._wells = WellStates(run)
        self._usage: Usage | None = None
        self._used = ""
        self._usage_due = self._picture_due = self._due = 0.0
        self._pictures: list[tuple[str, bytes]] = []
        self._unanswered: set[int] = set()
        self._number = 0
        self._wants_pictures = [
            spec for spec in run.plan.results if spec.kind in ("labels", "image") and spec.scope != "plate"
        ]
        self.following = True
        """False once the user has detached the display, until it is attached again."""
        self.on_attach: Callable[[], None] | None = None
        """Is called when the user attaches the display again."""
        plate = {"rows": self._wells.rows, "columns": self._wells.columns}
        self._wells.refresh()
        self.widget = RunCanvas(self._answer, plate=plate, state=self._wells.packed(), info=self._info())

    @property
    def is_seen(self) -> bool:
        """Whether a browser has shown it."""
        return bool(self.widget.views)

    def update(self) -> None:
        """Send what has changed, at most five times a second."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _INTERVAL_S
        self._wells.refresh()
        if now >= self._usage_due:
            self._usage_due = now + _USAGE_S
            self._used = self._use()
        with self.widget.hold_sync():
            self.widget.state = self._wells.packed()
            self.widget.info = self._info()
        if self._wells.latest and now >= self._picture_due and len(self._unanswered) < _UNANSWERED and self.is_seen:
            self._picture_due = now + _PICTURE_S
            self._show_latest()

    def finish(self, bundle: Mapping[str, Any]) -> None:
        """Hand over the static result, for views that cannot be replaced by it, and let go of the widget."""
        self._wells.refresh()
        self.following = False
        if self.widget.views > 1:
            with self.widget.hold_sync():
                self.widget.state = self._wells.packed()
                self.widget.info = self._info()
                self.widget.ended = dict(bundle)
        else:
            self.widget.close()

    def _info(self) -> dict[str, Any]:
        run = self._run
        progress, status = run.progress, run.status
        reasons, failed = self._wells.reasons()
        several = f"{len(failed)} well{'s' * (len(failed) != 1)}"
        return {
            "name": run.name,
            "status": status,
            "sentence": self._sentence(run),
            "plate": f"plate {run.plan.plate_name}",
            "stages": [[s.name, s.total, s.done, s.failed, s.running] for s in progress.stages],
            "usage": self._used,
            "failures": f"\u2717 {several} failed: {reasons[0]}" if failed else "",
            "reasons": reasons,
            "failed": failed,
            "following": self.following,
        }

    def _use(self) -> str:
        plan = self._run.plan
        where = f"{plan.memory.workers} worker{'s' * (plan.memory.workers != 1)} on {', '.join(plan.computes_on)}"
        if self._usage is None and self._wells.pid and self._run.record.host == socket.gethostname():
            self._usage = Usage(self._wells.pid)
        if self._usage is None:
            return where
        memory, busy = self._usage.look()
        cores = f", {busy:.1f} cores busy" if busy is not None else ""
        return f"{where}{cores}; {memory / 1e9:.2g} GB of {plan.memory.limit_bytes / 1e9:.2g} GB"

    def _show_latest(self) -> None:
        for finished in reversed(self._wells.latest):
            for spec in self._wants_pictures:
                if not any(file.name.startswith(f"{spec.kind}.{spec.name}.") for file in finished.files):
                    continue
                self._wells.latest.clear()
                self._send(*self._picture(spec, finished))
                return
        self._wells.latest.clear()

    def _picture(self, spec: ResultSpec, finished: Finished) -> tuple[str, bytes]:
        field = finished.field or 1
        try:
            drawn = picture_of(self._run, spec, finished.well, field, _PICTURE_SIDE)
        except OpenHCSError:
            return "", b""
        return f"{finished.well} field {field}, {spec.name}", pictures.encoded(drawn)

    def _send(self, caption: str, data: bytes) -> None:
        if not data:
            return
        self._pictures = [*self._pictures, (caption, data)][-_KEPT:]
        self._number += 1
        self._unanswered.add(self._number)
        self.widget.send({"type": "picture", "id": self._number, "caption": caption}, [data])

    def _answer(self, content: Mapping[str, Any]) -> None:
        kind = content.get("type")
        if kind == "ack":
            self._unanswered.discard(int(content["id"]))
        elif kind == "hello" and self.widget.views > 1:  # a page that was loaded again
            self._unanswered.clear()
            for caption, data in self._pictures:
                self.widget.send({"type": "picture", "id": 0, "caption": caption}, [data])
        elif kind == "cancel":
            self._run.cancel()
        elif kind in ("detach", "attach"):
            self.following = kind == "attach"
            self._due = 0.0
            self.widget.info = self._info()
            if self.following and self.on_attach is not None:
                self.on_attach()
