"""Keys and the files that hold them: connection files, invitations, and the keys that were enrolled."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
import tempfile
import uuid
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from openhcs_jupyter.errors import StreamError, UsageError
from openhcs_jupyter.files import check_parents, write_whole

FILE_VERSION = 1
_LONGEST_FOLDER = 75
T = TypeVar("T")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a kernel can be reached: two addresses as ZeroMQ writes them."""

    control: str
    """Requests and planes."""
    news: str
    """Announcements."""


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A CURVE key pair, in Z85."""

    public: str
    secret: str


class ConnectionFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a viewer needs to reach a kernel; for its owner's eyes only."""

    version: int
    name: str
    machine: str
    endpoints: tuple[Endpoint, ...]
    server_key: str
    """The kernel's public key, for CURVE on TCP."""
    viewer: KeyPair
    """What the kernel knows its viewers by."""


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """The line that a listening viewer prints, for a kernel to call it by."""

    host: str
    port: int
    """Of requests and planes; announcements use the next one."""
    key: str
    """The viewer's public key, Z85."""
    token: str = ""
    """Secret key, Z85, with which one kernel may come once, to enrol its own."""

    @property
    def endpoint(self) -> Endpoint:
        """The viewer's addresses."""
        return Endpoint(control=f"tcp://{self.host}:{self.port}", news=f"tcp://{self.host}:{self.port + 1}")

    def line(self) -> str:
        """Write the invitation as a line without blanks."""
        token = f"&token={_to_hex(self.token)}" if self.token else ""
        return f"tcp://{self.host}:{self.port}?key={_to_hex(self.key)}{token}"


def read_invitation(line: str) -> Invitation:
    """Read a line that a listening viewer printed.

    Raises
    ------
    StreamError
        If it is none.
    """
    match = re.match(
        r"^tcp://(\[[0-9a-fA-F:.]+\]|[^/:?]+):(\d{1,5})\?key=([0-9a-f]{64})(?:&token=([0-9a-f]{64}))?$", line
    )
    if match is None or not 0 < int(match[2]) < 65535:
        raise StreamError(
            f"{line!r} is no line of a listening viewer.",
            "It looks like tcp://HOST:PORT?key=...&token=..., as openhcs-jupyter viewer --bind prints it.",
        )
    token = _from_hex(match[4]) if match[4] else ""
    return Invitation(host=match[1], port=int(match[2]), key=_from_hex(match[3]), token=token)


def address_of(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT``.

    Raises
    ------
    UsageError
        If it is none; the port after it must be free, too.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65535:
        raise UsageError(f"{text!r} is no ADDRESS:PORT", "Write 127.0.0.1:5555, or 0.0.0.0:5555 to listen everywhere.")
    return host, int(port)


def is_everywhere(host: str) -> bool:
    """Tell whether an address stands for all of this machine's."""
    return host in ("0.0.0.0", "::", "[::]", "*")  # noqa: S104 - it is compared, not bound to


def new_keys() -> KeyPair:
    """Make a key pair."""
    import zmq

    public, secret = zmq.curve_keypair()
    return KeyPair(public=public.decode(), secret=secret.decode())


def keys_of(secret: str) -> KeyPair:
    """Return the key pair of a secret key."""
    import zmq

    return KeyPair(public=zmq.curve_public(secret.encode()).decode(), secret=secret)


def machine() -> str:
    """Return what tells this machine from others, as long as it is up."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    told = boot.read_text().strip() if boot.exists() else str(uuid.getnode())
    return hashlib.sha256(f"{platform.node()} {told}".encode()).hexdigest()[:32]


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter.

    Raises
    ------
    StreamError
        If it belongs to somebody else, or everybody can put another one in its place.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode)):
        raise StreamError(f"{path} belongs to another user.", "Remove it, or have it removed.")
    if os.name == "posix" and found.st_mode & 0o077:
        path.chmod(0o700)
    check_parents(path, StreamError)
    return path


def short_folder(folder: Path) -> Path:
    """Return a folder, or another one that stands for it where its name is too long for a socket's address."""
    if len(str(folder)) < _LONGEST_FOLDER:
        return folder
    place = private_folder(Path(tempfile.gettempdir()) / f"openhcs-{os.getuid()}")
    return private_folder(place / hashlib.sha256(str(folder).encode()).hexdigest()[:16])


def runtime_folder() -> Path:
    """Return the folder of sockets and keys that live as long as kernels do."""
    return private_folder(Path(platformdirs.user_runtime_dir("openhcs-jupyter")))


def data_folder() -> Path:
    """Return the folder of keys that are kept."""
    return private_folder(Path(platformdirs.user_data_dir("openhcs-jupyter")) / "streaming")


def write_private(path: Path, value: msgspec.Struct) -> None:
    """Write a value as JSON into a file that only its owner can read (mode 0600)."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(value), indent=1), private=True)


def read_private(path: Path, kind: type[T]) -> T:
    """Read what `write_private` wrote.

    Raises
    ------
    StreamError
        If it cannot be read, others can read it, or it is something else.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1 << 20)
    except OSError as error:
        raise StreamError(f"{path} cannot be read: {error.strerror}") from error
    if os.name == "posix" and mode & 0o077:
        raise StreamError(f"{path} holds keys, and others can read it.", f"chmod 600 {path}")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StreamError(f"{path} is no {kind.__name__}: {error}") from None


def kept_keys(name: str) -> KeyPair:
    """Return a key pair of this user that is kept for good; makes it the first time."""
    path = data_folder() / f"{name}.json"
    if not path.exists():
        write_private(path, new_keys())
    return read_private(path, KeyPair)


def _to_hex(key: str) -> str:
    import zmq.utils.z85

    return zmq.utils.z85.decode(key.encode()).hex()


def _from_hex(text: str) -> str:
    import zmq.utils.z85

    return zmq.utils.z85.encode(bytes.fromhex(text)).decode()
