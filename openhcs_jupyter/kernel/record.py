"""What a remote kernel has said of late, kept so that it can be said again after the connection was cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

_MOST_BYTES = 32_000_000
_MOST = 5000
_DELIMITER = b"<IDS|MSG>"


def signature(frames: Sequence[Any]) -> str:
    """Return what tells a message of Jupyter's from all others; empty if it is none."""
    parts = [bytes(frame) for frame in frames[:4]]
    at = parts.index(_DELIMITER) + 1 if _DELIMITER in parts else len(parts)
    return parts[at].decode(errors="replace") if at < len(parts) else ""


class Record:
    """The latest messages of a kernel's output, and its latest replies to cells.

    Parameters
    ----------
    kernel
        The kernel; from now on what it sends is kept.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._kept: deque[tuple[str, list[Any], int]] = deque()
        """Signature, frames and size of each message; changed by the thread that sends output only."""
        self._bytes = 0
        self._count = 0
        self._replies: deque[tuple[int, tuple[Any, ...], dict[str, Any]]] = deque(maxlen=50)
        self._output = kernel.iopub_socket.io_thread
        self._send_output = self._output._really_send
        self._output._really_send = self._keep
        self._send = kernel.session.send
        kernel.session.send = self._keep_reply

    def again(self, since: str, told: Callable[[str], None]) -> None:
        """Send again what followed a message, beginning with that message itself; all there is if it is not kept.

        Parameters
        ----------
        since
            Its signature.
        told
            Is given the signature of the first message that is sent again, after the last one; empty if there is none.
        """
        self._output.schedule(lambda: self._say(since, told))

    def _say(self, since: str, told: Callable[[str], None]) -> None:
        kept = list(self._kept)
        first = next((at for at, (mark, _, _) in enumerate(kept) if mark == since), 0)
        for _, frames, _ in kept[first:]:
            self._send_output(frames)
        begun = self._count - len(kept) + first
        replies = [(words, named) for at, words, named in self._replies if at >= begun]
        loop = self._kernel.io_loop
        for pause in (0.0, 1.0):  # whoever is to have them may take a moment to connect
            loop.add_callback(loop.call_later, pause, self._reply, replies)
        told(kept[first][0] if kept else "")

    def _reply(self, replies: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        for words, named in replies:
            self._send(*words, **named)

    def _keep(self, frames: Any, *words: Any, **named: Any) -> None:
        whole = [bytes(getattr(frame, "bytes", frame)) for frame in frames]
        size = sum(map(len, whole))
        self._kept.append((signature(whole), whole, size))
        self._bytes += size
        self._count += 1
        while self._bytes > _MOST_BYTES or len(self._kept) > _MOST:
            self._bytes -= self._kept.popleft()[2]
        self._send_output(frames, *words, **named)

    def _keep_reply(self, stream: Any, kind: Any, *words: Any, **named: Any) -> Any:
        if kind == "execute_reply":
            self._replies.append((self._count, (stream, kind, *words), named))
        return self._send(stream, kind, *words, **named)
