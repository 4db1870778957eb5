"""What clients and the execution server say to each other. ``docs/server-protocol.md`` describes it for strangers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from openhcs_jupyter.server.model import Job, JobEvent, JobState, Payload
from openhcs_jupyter.streaming.frames import MalformedError, decode, require

PROTOCOL_VERSION = 1
MOST_REQUEST_BYTES = 4 << 20
"""Of a message from a client; what is larger closes the connection."""
MOST_REPLY_BYTES = 8 << 20
MOST_CHUNK_BYTES = 512 << 10
"""Of a file, in one reply."""
MOST_LISTED = 500
"""Jobs in one reply."""
MOST_EVENTS = 1000
"""Events in one reply or announcement."""
TICKET_BYTES = 32

_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}(-[0-9]{1,6})?$")]
_JobId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53))]
_Secret = Annotated[str, msgspec.Meta(max_length=256)]
_File = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of the server."""

    id: str
    name: str
    memory_bytes: int
    job: str = ""
    """That it is leased to; empty where it is free, ``-`` where the job is another owner's."""


# Requests. Each has an id of the client's choice, which the reply repeats.


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="is"):
    """The base of all requests."""

    id: _Number


class Hello(Request, frozen=True, kw_only=True, tag="hello"):
    """Says who the client is; what it then asks on connections with the same CURVE key is asked by this owner.

    Exactly one of `token` and `session` is given. Said again with a new session, it lets jobs go on that need a login.
    """

    version: int
    token: _Secret = ""
    """Out of a token file."""
    session: _Secret = ""
    """UUID of a session with the server's OMERO."""


class Ping(Request, frozen=True, kw_only=True, tag="ping"):
    """Asks whether the server is there."""


class Submit(Request, frozen=True, kw_only=True, tag="submit"):
    """Hands in a job. With a key that the owner has used already, it is answered with that job, and nothing is made."""

    key: _Key
    """32 hexadecimal digits, chosen at random by the client (`model.new_key`); one of several plates adds ``-N``."""
    payload: Payload
    priority: Annotated[int, msgspec.Meta(ge=-100, le=100)] = 0
    """Among the jobs of the same owner; larger ones come first."""


class GetJob(Request, frozen=True, kw_only=True, tag="job"):
    """Asks for one job."""

    job: _JobId
    """Its id, or its run's."""


class ListJobs(Request, frozen=True, kw_only=True, tag="jobs"):
    """Asks for the owner's jobs, the latest first."""

    states: tuple[JobState, ...] = ()
    """Empty asks for all."""
    before: str = ""
    """Go on after this job of an earlier page."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_LISTED)] = 100
    everybody: bool = False
    """For administrators: jobs of all owners."""


class GetEvents(Request, frozen=True, kw_only=True, tag="events"):
    """Asks for a job's events after a number; 0 asks for all."""

    job: _JobId
    after: _Number = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_EVENTS)] = MOST_EVENTS


class GetLog(Request, frozen=True, kw_only=True, tag="log"):
    """Asks for what a job's processes have written to their output; answered by `Chunk`."""

    job: _JobId
    offset: _Number = 0


class Fetch(Request, frozen=True, kw_only=True, tag="fetch"):
    """Asks for a part of a file of a job's run, such as ``plan.json`` or ``units/KEY/table.cells.arrow``."""

    job: _JobId
    file: _File
    offset: _Number = 0


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    """Stops a job; what is finished is kept. One that has ended is shown in viewers no longer."""

    job: _JobId


class Park(Request, frozen=True, kw_only=True, tag="park"):
    """Stops a job until it is asked to go on."""

    job: _JobId


class Resume(Request, frozen=True, kw_only=True, tag="resume"):
    """Lets a job go on that is parked, cancelled, has failed or needs a login; no finished unit is done again."""

    job: _JobId


class View(Request, frozen=True, kw_only=True, tag="view"):
    """Asks to show the run of a job in viewers, also when it has ended; it is shown once there is one."""

    job: _JobId
    viewer: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    """Line of a listening viewer that is to be called; empty waits for viewers that come by the file of `Shown`."""


class GetServer(Request, frozen=True, kw_only=True, tag="server"):
    """Asks how the server is."""


# Replies.


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="is"):
    """The base of all replies."""

    id: int


class Welcome(Reply, frozen=True, kw_only=True, tag="welcome"):
    """The answer to `Hello`."""

    version: int
    server_version: str
    """Of the package."""
    name: str
    """``ACCOUNT@HOST`` of the server."""
    owner: str
    administrator: bool
    repository: str
    """URI that jobs take their plates from."""
    news_port: int
    """Of the XPUB socket, at the same host."""
    ticket: bytes
    """Topic of the owner's events there; another one after the server's restart."""


class Pong(Reply, frozen=True, kw_only=True, tag="pong"):
    """The server is there."""

    time: float
    known: bool
    """The client has said who it is; if not, it says `Hello` again."""


class JobIs(Reply, frozen=True, kw_only=True, tag="job"):
    """One job, as it is after the request was done."""

    job: Job


class Shown(Reply, frozen=True, kw_only=True, tag="shown"):
    """A job is shown in viewers, or will be once it is compiled."""

    job: Job
    file: str
    """``ACCOUNT@HOST:PATH`` of what viewers open that reach the server's machine by SSH as the job's account."""


class JobsAre(Reply, frozen=True, kw_only=True, tag="jobs"):
    """A page of jobs."""

    jobs: tuple[Job, ...]
    more: bool
    """Ask again with `before`."""


class EventsAre(Reply, frozen=True, kw_only=True, tag="events"):
    """A page of a job's events."""

    job: str
    events: tuple[JobEvent, ...]
    latest: int
    """Number of the job's latest event."""
    state: JobState


class Chunk(Reply, frozen=True, kw_only=True, tag="chunk"):
    """A part of a file."""

    data: bytes
    offset: int
    size: int
    """Of the whole file, as it is now."""


class ServerIs(Reply, frozen=True, kw_only=True, tag="server"):
    """How the server is."""

    name: str
    server_version: str
    repository: str
    started: float
    several_owners: bool
    jobs: dict[str, int]
    """By state: the owner's jobs; an administrator's answer counts everybody's."""
    queued: int
    """Everybody's."""
    active: int
    """Everybody's."""
    cores: int
    """That are leased to jobs at most."""
    cores_leased: int
    devices: tuple[DeviceUse, ...]
    memory_bytes: int
    memory_free_bytes: int
    shown: int = 0
    """Jobs that are shown in viewers, of all owners."""
    clients: int
    stopping: bool


RefusedKind = Literal["malformed", "version", "identity", "unknown", "invalid", "quota", "busy", "gone", "internal"]


class Refused(Reply, frozen=True, kw_only=True, tag="refused"):
    """A request is not done, and has changed nothing."""

    kind: RefusedKind
    """``identity``: say `Hello` (again). ``busy``: ask again later. ``unknown``: there is no such job of this owner."""
    message: str
    hint: str = ""


class News(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="news"):
    """Events of one job, as they happen; the second frame of an announcement, whose first one is the owner's ticket.

    What was missed, seen by a gap in the numbers, is asked for with `GetEvents`.
    """

    job: str
    state: JobState
    events: tuple[JobEvent, ...]


AnyRequest = (
    Hello | Ping | Submit | GetJob | ListJobs | GetEvents | GetLog | Fetch | Cancel | Park | Resume | View | GetServer
)
AnyReply = Welcome | Pong | JobIs | Shown | JobsAre | EventsAre | Chunk | ServerIs | Refused

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)
_news: msgspec.msgpack.Decoder[News] = msgspec.msgpack.Decoder(News)


class _Numbered(msgspec.Struct, frozen=True):
    id: _Number


_numbered = msgspec.msgpack.Decoder(_Numbered)


class MalformedRequestError(MalformedError):
    """A message is not what the protocol says, from a client that may be told so.

    Parameters
    ----------
    message
        What is wrong with it.
    request
        Its id, where that much can be read.
    """

    def __init__(self, message: str, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


def encode(message: Request | Reply | News) -> bytes:
    """Write a message: one frame."""
    return _encoder.encode(message)


def read_request(frames: Sequence[Any]) -> AnyRequest:
    """Read a client's message: one frame.

    Raises
    ------
    MalformedRequestError
        If it is none.
    """
    try:
        require(frames, 1)
        return decode(_requests, frames[0])
    except MalformedError as error:
        raise MalformedRequestError(str(error), _id_of(frames)) from None


def read_reply(frames: Sequence[Any]) -> AnyReply:
    """Read the server's message: one frame.

    Raises
    ------
    MalformedError
        If it is none.
    """
    require(frames, 1)
    return decode(_replies, frames[0])


def read_news(frames: Sequence[Any]) -> News:
    """Read an announcement: a ticket and one frame.

    Raises
    ------
    MalformedError
        If it is none.
    """
    require(frames, 2)
    return decode(_news, frames[1])


def _id_of(frames: Sequence[Any]) -> int | None:
    try:
        return decode(_numbered, frames[0]).id if len(frames) == 1 else None
    except MalformedError:
        return None
