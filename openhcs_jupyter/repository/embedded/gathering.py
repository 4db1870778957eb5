"""Gathers a run's results place by place, so that they are published whole or not at all.

They are gathered in ``.<run id>.partial`` beside the results folder and published by renaming. Results of the same run
that are there already step aside to ``.<run id>.replaced`` first, and are removed last: whoever is stopped in between
leaves the earlier results whole under that name, where `open_results` and the next call find them. All this holds when
processes are killed; a machine that loses power may lose what its file system had not yet written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.model import Channel, ResultSpec
from openhcs_jupyter.repository.base import Place
from openhcs_jupyter.repository.embedded.layout import INDEX, beside, folders, path_of, plates_of, scope_of
from openhcs_jupyter.repository.embedded.multiscale import remove, write_bytes
from openhcs_jupyter.repository.embedded.saved import Results, open_results

_TASK = ".task.json"
_DONE = ".fields"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What there will be, kept for the processes that write fields."""

    results: tuple[ResultSpec, ...]
    channels: tuple[Channel, ...]
    rows: int
    columns: int


class Gathering:
    """What one run has written and not published yet.

    Parameters
    ----------
    published
        Where the results will be: ``<results>/<run id>``.
    """

    def __init__(self, published: Path) -> None:
        self.published = published
        self.folder = beside(published, "partial")
        """Where the results are gathered."""
        self._replaced = beside(published, "replaced")
        self._task: Task | None = None

    @property
    def task(self) -> Task:
        """What `begin` was told, in this process or another.

        Raises
        ------
        RepositoryError
            If nothing has begun.
        """
        if self._task is None:
            try:
                self._task = msgspec.json.decode((self.folder / _TASK).read_bytes(), type=Task)
            except FileNotFoundError:
                raise RepositoryError(
                    f"Results of run {self.published.name} are not being gathered in {self.folder}.",
                    "Resume the run: it begins the results again.",
                ) from None
        return self._task

    def begin(self, task: Task) -> None:
        """Make the folder; places that an interrupted run of the same task has gathered stay, others are removed."""
        self.recover()
        path = self.folder / _TASK
        if not path.exists() or path.read_bytes() != msgspec.json.encode(task):
            remove(self.folder)
        (self.folder / _DONE).mkdir(parents=True, exist_ok=True)
        replace(path, msgspec.json.encode(task))
        (self.folder / INDEX).unlink(missing_ok=True)
        self._task = task

    @contextmanager
    def writing(self, place: Place, names: Sequence[str]) -> Iterator[None]:
        """Write the results `names` of a place anew; nothing of it is kept if that fails."""
        try:
            self._clear(place)
            yield
            # The mark is the place's commit: a place without it is written again, or found missing at the end.
            replace(self._mark(place), msgspec.json.encode(sorted(names)))
        except BaseException:
            # The error that led here is the one to report; without its mark the place is not taken for whole.
            for plate in plates_of(self.task.results, scope_of(place)):
                shutil.rmtree(self.folder / plate / path_of(place), ignore_errors=True)
            raise

    def take_over(self, places: Sequence[Place]) -> dict[Place, list[str]]:
        """Say which results each place has; a place that only the published results have is linked from there."""
        written = {}
        published: Results | None = None
        for place in places:
            mark = self._mark(place)
            if not mark.exists():
                published = published or self._open_published()
                if published is None or not self._link(published, place):
                    continue
            written[place] = msgspec.json.decode(mark.read_bytes(), type=list[str])
        return written

    def keep_only(self, places: set[Place]) -> None:
        """Remove the images and labels of other places, finished or not."""
        results = self.task.results
        if (None, None) not in places:
            for plate in plates_of(results, "plate"):
                remove(self.folder / plate)
        self._keep_fields(plates_of(results, "field"), {place for place in places if scope_of(place) == "field"})
        self._keep_fields(plates_of(results, "well"), {place for place in places if scope_of(place) == "well"})

    def publish(self) -> None:
        """Put what was gathered where the results belong."""
        if self.published.exists():
            self.published.rename(self._replaced)
        self.folder.rename(self.published)
        # Only now: up to here a repeated call needs them.
        remove(self.published / _DONE)
        (self.published / _TASK).unlink()
        remove(self._replaced)

    def recover(self) -> None:
        """Undo a `publish` that was stopped between its two renamings, or do what was left of it."""
        if self._replaced.exists():
            if self.published.exists():
                remove(self._replaced)
            else:
                self._replaced.rename(self.published)

    def abort(self) -> None:
        """Remove what was gathered and not published."""
        self.recover()
        remove(self.folder)

    def delete(self) -> None:
        """Delete what was published, and what was gathered."""
        if self.published.exists():
            remove(self._replaced)
            self.published.rename(self._replaced)  # gone in one step, so that half of it is never taken for the whole
            (self._replaced / INDEX).unlink(missing_ok=True)
        remove(self._replaced)
        remove(self.folder)

    @contextmanager
    def mending(self) -> Iterator[None]:
        """Turn what the operating system says into what the user can do."""
        try:
            yield
        except OSError as error:
            place = self.folder.parent
            if error.errno in _FULL:
                message = f"There is no space left for the results in {place}."
                hint = (
                    "Free some space there, or connect a repository on another disk; then run it again with --resume."
                )
            elif error.errno in _CLOSED:
                message = f"The results folder {place} cannot be written."
                hint = "Make it writable, or connect a repository of your own; then run it again with --resume."
            else:
                message = f"Results cannot be written in {place}: {error.strerror or error}."
                hint = "Check the disk, then run it again with --resume."
            raise RepositoryError(message, hint) from error

    def _mark(self, place: Place) -> Path:
        well, field = place
        return self.folder / _DONE / ("plate" if well is None else well if field is None else f"{well}_{field}")

    def _clear(self, place: Place) -> None:
        self._mark(place).unlink(missing_ok=True)
        for plate in plates_of(self.task.results, scope_of(place)):
            remove(self.folder / plate / path_of(place))

    def _open_published(self) -> Results | None:
        try:
            return open_results(self.published)
        except RepositoryError:
            return None

    def _link(self, published: Results, place: Place) -> bool:
        had = [result for result in (*published.images, *published.labels) if place in result.fields]
        announced = {spec.name for spec in self.task.results}
        if place not in published.fields or not {result.name for result in had} <= announced:
            return False
        path = path_of(place)
        self._clear(place)
        for plate in {result.path for result in had}:
            target = self.folder / plate / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # What is linked is never written to: a place that is written again is removed first.
            shutil.copytree(Path(published.folder, plate, path), target, copy_function=_link_or_copy)
        replace(self._mark(place), msgspec.json.encode(sorted(result.name for result in had)))
        return True

    def _keep_fields(self, plates: Sequence[str], places: set[Place]) -> None:
        kept = {path_of(place) for place in places}
        wells = {path.rpartition("/")[0] for path in kept}
        for plate in plates:
            folder = self.folder / plate
            found = [f"{row}/{column}" for row in folders(folder) for column in folders(folder / row)]
            for well in found:
                if well not in wells:
                    remove(folder / well)
                    continue
                for field in folders(folder / well):
                    if f"{well}/{field}" not in kept:
                        remove(folder / well / field)


def replace(path: Path, content: bytes) -> None:
    """Write a file that whoever finds it finds whole."""
    partial = path.with_name(f"{path.name}.partial")
    write_bytes(partial, content)
    partial.replace(path)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
