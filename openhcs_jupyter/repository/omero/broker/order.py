"""Guesses which image is opened next: workers take turns, so that each opens every n-th of a plate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openhcs_jupyter.repository.omero.broker.protocol import MOST_IMAGES


class Order:
    """The images in the order in which a run opens them, and where it stands."""

    def __init__(self) -> None:
        self._images: Sequence[int] = ()
        self._index: dict[int, int] = {}
        self._at = 0
        self._step = 0

    def after(self, image: int, images: Callable[[], Sequence[int]]) -> int | None:
        """Note that an image is opened; return the one that comes next, if the last two steps were alike.

        Parameters
        ----------
        image
            Its id.
        images
            All that there are, in their order; asked where `image` is none of those that are known.
        """
        if image not in self._index:
            self._images = images()
            self._index = {one: number for number, one in enumerate(self._images)}
            self._at = self._step = 0
        at = self._index.get(image)
        if at is None:
            return None
        step, before = at - self._at, self._step
        self._at, self._step = at, step
        likely = at + step
        return self._images[likely] if step == before and step and 0 <= likely < len(self._images) else None

    def following(self) -> Sequence[int]:
        """Return the images behind the one that is opened, as many as may be named at once."""
        return self._images[self._at + 1 : self._at + MOST_IMAGES]
