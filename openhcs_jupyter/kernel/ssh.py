"""A machine that the user's ``ssh`` reaches, through one connection that all commands share."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from openhcs_jupyter.errors import RemoteError

CONNECT_S = 20
_KEPT_S = 60
_ALIVE_S, _ALIVE_TIMES = 5, 3


class Host:
    """A machine as ``ssh`` takes it.

    All commands go through one connection. It is the user's own where their configuration shares connections and keeps
    them; else one for `purpose`, so that ending it ends nothing else.

    Parameters
    ----------
    name
        Such as ``user@server``, or a name of ``~/.ssh/config``.
    purpose
        Tells connections to the same machine from each other.

    Raises
    ------
    RemoteError
        If there is no ``ssh``, or it does not understand the name.
    """

    def __init__(self, name: str, purpose: str) -> None:
        if not name or name.startswith("-"):
            raise RemoteError(f"{name!r} is no machine.", "Name it as ssh does: USER@HOST.")
        self.name = name
        ssh = shutil.which("ssh")
        if ssh is None:
            raise RemoteError("There is no ssh on this machine.", "Install OpenSSH's client.")
        self.program = ssh
        self.socket: Path | None = None
        """Of the connection; None where it is the user's own."""
        if not self._is_shared():
            self.socket = _socket(name, purpose)

    @property
    def options(self) -> list[str]:
        """What is said to ``ssh`` beside the user's configuration."""
        options = {
            "ServerAliveInterval": _ALIVE_S,
            "ServerAliveCountMax": _ALIVE_TIMES,
            "ConnectTimeout": 10,
            "StreamLocalBindUnlink": "yes",
            "StreamLocalBindMask": "0177",
        }
        if self.socket is not None:
            options |= {"ControlMaster": "auto", "ControlPath": str(self.socket), "ControlPersist": _KEPT_S}
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def command(self, script: str) -> list[str]:
        """Return the command that has a shell there do something; forwards of the user's are left alone."""
        plain = ["-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-T"]
        return [self.program, *self.options, *plain, "--", self.name, script]

    def run(self, script: str, *, given: bytes = b"", timeout: float = CONNECT_S) -> bytes:
        """Have a shell there do something; returns what it prints.

        Raises
        ------
        RemoteError
            If the machine is not reached, or what is done there fails.
        """
        done = self.attempt(script, given=given, timeout=timeout)
        if done.returncode == 255:
            raise RemoteError(
                f"ssh does not reach {self.name}: {_last(done.stderr) or 'it says nothing'}",
                f"It must work without a question. Try: ssh {self.name}",
            )
        if done.returncode:
            raise RemoteError(f"{self.name}: {_last(done.stderr) or f'exit code {done.returncode}'}")
        return done.stdout

    def attempt(self, script: str, *, given: bytes = b"", timeout: float) -> subprocess.CompletedProcess[bytes]:
        """Do the same and return how it went.

        Raises
        ------
        RemoteError
            If it takes too long.
        """
        # Without a terminal of its own ssh asks nothing, as it cannot under Jupyter.
        try:
            return subprocess.run(  # noqa: S603 - our own words, and no shell
                self.command(script),
                input=given,
                capture_output=True,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise RemoteError(f"{self.name} does not answer within {timeout:.0f} s.", f"Try: ssh {self.name}") from None

    def is_connected(self) -> bool:
        """Tell whether the connection stands, as far as this side knows."""
        return self._control("check").returncode == 0

    def forward(self, forwards: Mapping[str, str]) -> bool:
        """Have the connection forward local addresses, ``HOST:PORT`` or sockets, to addresses there; tells success.

        What is forwarded already stays.
        """
        return self._control("forward", *_forwards(forwards)).returncode == 0

    def cancel(self, forwards: Mapping[str, str]) -> None:
        """Stop to forward."""
        if forwards:
            self._control("cancel", *_forwards(forwards))

    def leave(self) -> None:
        """End the connection, unless it is the user's own."""
        if self.socket is not None:
            self._control("exit")

    def _control(self, order: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [self.program, *self.options, "-O", order, *words, "--", self.name]
        return subprocess.run(  # noqa: S603 - our own words, and no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CONNECT_S, check=False
        )

    def _is_shared(self) -> bool:
        done = subprocess.run(  # noqa: S603 - our own words, and no shell
            [self.program, "-G", "--", self.name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONNECT_S,
            check=False,
        )
        if done.returncode:
            raise RemoteError(f"ssh does not understand {self.name!r}: {_last(done.stderr)}")
        known = dict(line.split(" ", 1) for line in done.stdout.decode().splitlines() if " " in line)
        shares = known.get("controlmaster", "no") not in ("no", "false")
        keeps = known.get("controlpersist", "no") not in ("no", "false")
        return shares and keeps and known.get("controlpath", "none") != "none"


def _forwards(forwards: Mapping[str, str]) -> Iterable[str]:
    return [word for here, there in forwards.items() for word in ("-L", f"{here}:{there}")]


def _socket(name: str, purpose: str) -> Path:
    from openhcs_jupyter.streaming.keys import private_folder, runtime_folder, short_folder

    mark = hashlib.sha256(f"{name} {purpose}".encode()).hexdigest()[:12]
    # ssh binds a longer name first, and renames it.
    return short_folder(private_folder(runtime_folder() / "ssh")) / mark


def _last(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
