"""Requests and responses over one proven stream (docs/spec/node-protocol.md).

Participants: the *dialler* sends requests, the *listener* answers them; a node that wants to ask back
dials by itself. Many requests are in flight at once, answers come in any order.

A frame is `header length (4) ‖ payload length (4) ‖ header ‖ payload`. The header is an `Envelope` record;
the payload is raw bytes and passes through without copies. Who sends what this page does not allow
(an unknown kind, a length beyond its bound, an answer nobody waits for) is broken off: `PeerError`.
A body that does not parse is answered by a `Failure` and the connection stays, because the frames
around it are intact.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, ClassVar, Generic, TypeAlias, TypeVar

from potsherd import errors
from potsherd.classes import dataclass
from potsherd.errors import LimitError, MalformedError, PeerError, PotsherdError
from potsherd.node import churn, lease_records, records
from potsherd.node.audit import records as audit_records
from potsherd.node.challenge import Challenge, ChallengeAnswer
from potsherd.node.patience import time_for
from potsherd.node.payloads import AnswerBuffers, PayloadBuffers
from potsherd.node.records import PAYLOAD_MAX, Failure
from potsherd.node.repair import records as repair_records
from potsherd.ports import Buffer, Stream
from potsherd.wire import Bytes, Record, Uint

__all__ = [
    "ABANDONED_MAX",
    "FRAME_TIMEOUT_S",
    "HEADER_MAX",
    "HELLO_TIMEOUT_S",
    "IDLE_TIMEOUT_S",
    "IN_FLIGHT_BYTES_MAX",
    "IN_FLIGHT_MAX",
    "METHODS",
    "REQUEST_TIMEOUT_S",
    "Answer",
    "Caller",
    "Envelope",
    "Handle",
    "Method",
    "Methods",
    "Request",
    "Responder",
    "Response",
    "Work",
    "error_of",
    "failure_of",
]

BODY_MAX = records.Roster.SIZE_MAX
"""Bytes of the largest body: a roster."""
HEADER_MAX = BODY_MAX + 64
"""Bytes of an encoded envelope; a longer header breaks the connection off."""
IN_FLIGHT_MAX = 32
"""Requests of one connection under way; more wait: at the dialler in `call`, at the listener unread."""
IN_FLIGHT_BYTES_MAX = 2 * PAYLOAD_MAX
"""Payload bytes that one connection may occupy at the listener; more stay unread or wait for room."""
ABANDONED_MAX = 256
"""Requests given up whose answer may still come; a listener that leaves more open is broken off."""
REQUEST_TIMEOUT_S = 60.0
"""Seconds from sending a request until its answer, unless the caller says otherwise; `time_for` payloads besides."""
HELLO_HEADER_MAX = records.Hello.SIZE_MAX + 64
"""Bytes of the first frame's header; nothing larger is read from a peer that is not yet admitted."""
HELLO_TIMEOUT_S = 10.0
"""Seconds that a dialler may take to say hello."""
FRAME_TIMEOUT_S = 60.0
"""Seconds that a frame may take once its first byte is there, or until it is taken; `time_for` its payload besides."""
IDLE_TIMEOUT_S = 600.0
"""Seconds without a request after which a listener closes the connection."""

_PREFIX = struct.Struct(">II")
_LOG = logging.getLogger(__name__)

REQUEST, RESPONSE, FAILURE = 0, 1, 2

Q = TypeVar("Q", bound=Record)
A = TypeVar("A", bound=Record)
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Envelope(Record):
    """A frame's header: kind (0 request, 1 response, 2 failure), number of the request, method, body."""

    SIZE_MAX: ClassVar[int] = HEADER_MAX
    kind: Annotated[int, Uint(2)]
    request: Annotated[int, Uint(2**32 - 1)]
    method: Annotated[int, Uint(255)]
    body: Annotated[bytes, Bytes(max=BODY_MAX)]


@dataclass(frozen=True)
class Method(Generic[Q, A]):
    """One thing that can be asked: its number, its records, and which side may send a payload."""

    number: int
    name: str
    asks: type[Q]
    answers: type[A]
    sends: bool = False
    """The request may carry a payload."""
    gets: bool = False
    """The response may carry a payload."""


class Methods:
    """All methods of protocol version 1; numbers are never used twice."""

    HELLO = Method(1, "hello", records.Hello, records.Hello)
    PUSH_OPEN = Method(2, "push-open", records.PushOpen, records.Staged)
    PUSH = Method(3, "push", records.Push, records.Done, sends=True)
    PUSH_ABORT = Method(4, "push-abort", records.PushAbort, records.Done)
    COMMIT = Method(5, "commit", records.Commit, records.Receipt)
    READ = Method(6, "read", records.Read, records.ReadProofs, gets=True)
    DESCRIPTOR = Method(7, "descriptor", records.SegmentQuery, records.DescriptorReply)
    ROSTER = Method(8, "roster", records.SegmentQuery, records.Roster)
    MERGE_ROSTER = Method(9, "merge-roster", records.Roster, records.Done)
    LEASE_PUT = Method(10, "lease-put", records.LeasePut, records.Done)
    LEASES = Method(11, "leases", records.SegmentQuery, records.LeaseReply)
    HEAD_PUT = Method(12, "head-put", records.HeadPut, records.Done)
    HEADS = Method(13, "heads", records.HeadQuery, records.HeadReply)
    ANNOUNCE = Method(14, "announce", records.AnnounceNow, records.Announced)
    STATUS = Method(15, "status", records.NodeStatusQuery, records.NodeStatusReply)
    ROSTER_DIGESTS = Method(16, "roster-digests", records.RosterDigests, records.RosterStates)
    CONFIRM = Method(17, "confirm", records.Confirm, records.Receipt)
    LAST_SEEN = Method(18, "last-seen", repair_records.LastSeenQuery, repair_records.LastSeen)
    CLAIM = Method(19, "claim", repair_records.ClaimPut, repair_records.ClaimStands)
    ACCUSE = Method(20, "accuse", audit_records.Accusation, records.Done)
    PROVEN = Method(21, "proven", records.SegmentQuery, audit_records.ProvenReply)
    BAD_ENCODING = Method(
        22, "bad-encoding", audit_records.BadEncodingPut, records.Done, sends=True
    )
    REPAIR = Method(23, "repair", audit_records.RepairAsk, audit_records.RepairStates)
    CHURN = Method(40, "churn", churn.ChurnQuery, churn.ChurnSeen)
    CHALLENGE = Method(24, "challenge", Challenge, ChallengeAnswer)
    EXTEND = Method(32, "extend", lease_records.ExtensionPut, records.Done)
    WITHDRAW = Method(33, "withdraw", lease_records.WithdrawalPut, lease_records.WithdrawalTaken)
    HOLDER_OPEN = Method(35, "holder-open", records.HolderOpen, records.Staged)
    KEEPING = Method(34, "keeping", lease_records.KeepingQuery, lease_records.KeepingReply)


METHODS: dict[int, Method[Any, Any]] = {
    method.number: method for method in vars(Methods).values() if isinstance(method, Method)
}

# --- errors on the wire ---------------------------------------------------------------------------

_KINDS: dict[str, type[PotsherdError]] = {name: getattr(errors, name) for name in errors.__all__}


def _cut(text: str, size_max: int) -> str:
    """The text without NUL and lone surrogates, at most `size_max` bytes long."""
    data = text.replace("\0", "").encode("utf-8", "replace")[:size_max]
    return data.decode("utf-8", "ignore")


def failure_of(error: BaseException) -> Failure:
    """What a peer is told. Errors that are not potsherd's own are our bugs: their text stays here."""
    if not isinstance(error, PotsherdError):
        return Failure(kind="PotsherdError", message="internal error of the node", remedy="")
    kind = type(error).__name__
    if kind not in _KINDS:
        kind = "PotsherdError"
    return Failure(kind=kind, message=_cut(error.message, 500), remedy=_cut(error.remedy, 500))


def error_of(failure: Failure) -> PotsherdError:
    """The error that a peer reported; PeerError for a kind that errors.py does not know."""
    kind = _KINDS.get(failure.kind)
    if kind is None:
        return PeerError("the peer reports an unknown kind of error")
    return kind(failure.message, remedy=failure.remedy)


# --- frames ---------------------------------------------------------------------------------------


def _frame(envelope: Envelope, payload_size: int) -> bytes:
    header = envelope.encode()
    return _PREFIX.pack(len(header), payload_size) + header


async def _read_prefix(stream: Stream) -> tuple[int, int]:
    header_size, payload_size = _PREFIX.unpack(await stream.read_exactly(_PREFIX.size))
    if not 0 < header_size <= HEADER_MAX or payload_size > PAYLOAD_MAX:
        raise PeerError("the peer sent a frame with impossible lengths")
    return header_size, payload_size


async def _read_envelope(stream: Stream, size: int, *kinds: int) -> Envelope:
    try:
        envelope = Envelope.decode(await stream.read_exactly(size))
    except MalformedError as error:
        raise PeerError(f"the peer sent garbage: {error}") from None
    if envelope.kind not in kinds:
        raise PeerError("the peer sent the wrong kind of frame")
    return envelope


async def _read_payload(stream: Stream, payload: memoryview) -> memoryview:
    if payload:
        await stream.read_into(payload)
    return payload


# --- the dialler ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response(Generic[A]):
    """An answer: its record, and the payload (a view of a buffer of its own)."""

    body: A
    payload: memoryview


@dataclass
class _Pending:
    method: int
    payload_max: int
    answer: asyncio.Future[tuple[int, bytes, memoryview]]
    sent: bool = False


class Caller:
    """The dialler's end. Owns a reading and a writing task from `start` until `close` or `abort`."""

    def __init__(self, stream: Stream, buffers: AnswerBuffers | None = None) -> None:
        """`buffers` for the payloads of answers may be shared with others."""
        self.stream = stream
        self._buffers = buffers or AnswerBuffers()
        self._pending: dict[int, _Pending] = {}
        self._abandoned: OrderedDict[int, int] = OrderedDict()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._outgoing: asyncio.Queue[tuple[_Pending, tuple[Buffer, ...]]] = asyncio.Queue(
            IN_FLIGHT_MAX
        )
        self._next = 0
        self._broken: PeerError | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    @property
    def broken(self) -> PeerError | None:
        """Why the connection ended; None while it stands."""
        return self._broken

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return len(self._pending)

    def start(self) -> None:
        """Begin to read and write."""
        loop = asyncio.get_running_loop()
        self._tasks = (
            loop.create_task(self._guard(self._read_all)),
            loop.create_task(self._guard(self._write_all)),
        )

    async def call(
        self,
        method: Method[Q, A],
        body: Q,
        *payload: Buffer,
        payload_max: int = 0,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Response[A]:
        """Ask and wait for the answer.

        Raises the error the peer reports; PeerError when the connection ends, the answer is late or
        does not parse. An answer with more than `payload_max` bytes of payload ends the connection. The
        payload's buffers must keep their bytes until the answer, also when the call is cancelled.
        """
        encoded = body.encode()
        sent = sum(memoryview(part).nbytes for part in payload)
        timeout_s = time_for(sent + payload_max, timeout_s)
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                kind, data, got = await self._ask(method.number, encoded, payload, payload_max)
        except TimeoutError:
            raise PeerError(f"no answer to {method.name} within {timeout_s:.0f} s") from None
        if kind == FAILURE:
            raise error_of(self._parse(Failure, data))
        return Response(self._parse(method.answers, data), got)

    def _parse(self, cls: type[R], data: bytes) -> R:
        """Decode what the peer answered; garbage ends the connection."""
        try:
            return cls.decode(data)
        except MalformedError as error:
            self.abort(PeerError(f"the peer sent garbage: {error}"))
            raise PeerError(f"the peer sent garbage: {error}") from None

    async def _ask(
        self, method: int, body: bytes, payload: tuple[Buffer, ...], payload_max: int
    ) -> tuple[int, bytes, memoryview]:
        size = sum(memoryview(part).nbytes for part in payload)
        if size > PAYLOAD_MAX:
            raise LimitError(f"{size} bytes of payload, at most {PAYLOAD_MAX}")
        self._raise_if_broken()
        number = self._next = (self._next + 1) % 2**32
        answer: asyncio.Future[tuple[int, bytes, memoryview]]
        answer = asyncio.get_running_loop().create_future()
        pending = self._pending[number] = _Pending(method, payload_max, answer)
        try:
            frame = _frame(Envelope(REQUEST, number, method, body), size)
            await self._outgoing.put((pending, (frame, *payload)))
            self._raise_if_broken()
            return await answer
        finally:
            del self._pending[number]
            if pending.sent and answer.cancelled():
                self._abandon(number, method)

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise PeerError(str(self._broken))

    def _abandon(self, number: int, method: int) -> None:
        self._abandoned[number] = method
        if len(self._abandoned) > ABANDONED_MAX:
            self.abort(PeerError("the peer leaves too many requests without an answer"))

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except PeerError as error:
            self.abort(error)
        except TimeoutError:
            self.abort(PeerError("the peer stopped in the middle of an answer"))
        except Exception:  # a bug of ours must not leave callers waiting
            _LOG.exception("connection to a peer failed")
            self.abort(PeerError("internal error"))

    async def _write_all(self) -> None:
        while True:
            pending, buffers = await self._outgoing.get()
            if not pending.answer.done():
                pending.sent = True
                await self.stream.write(*buffers)

    async def _read_all(self) -> None:
        while True:
            header_size, payload_size = await _read_prefix(self.stream)
            envelope = await _read_envelope(self.stream, header_size, RESPONSE, FAILURE)
            pending = self._awaited(envelope, payload_size)
            async with asyncio.timeout(time_for(payload_size, FRAME_TIMEOUT_S)):
                payload = await _read_payload(self.stream, self._buffers.take(payload_size))
            if pending is not None and not pending.answer.done():
                pending.answer.set_result((envelope.kind, envelope.body, payload))

    def _awaited(self, envelope: Envelope, payload_size: int) -> _Pending | None:
        """The request that this answers; None if it was given up. Raises PeerError for any other frame."""
        pending = self._pending.get(envelope.request)
        if pending is None:
            method = self._abandoned.pop(envelope.request, None)
            if method != envelope.method:
                raise PeerError("the peer answered what nobody asked")
            return None
        if envelope.method != pending.method:
            raise PeerError("the peer answered with another method")
        if payload_size > (0 if envelope.kind == FAILURE else pending.payload_max):
            raise PeerError("the peer sent more bytes than were asked for")
        return pending

    def abort(self, why: PeerError | None = None) -> None:
        """Break off: every waiting call ends with PeerError. May be called twice."""
        if self._broken is None:
            self._broken = why or PeerError("the connection was closed")
        self.stream.abort()
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(PeerError(str(self._broken)))
                pending.answer.exception()  # seen, also when its caller is being cancelled just now
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        """Break off and wait until both tasks have ended."""
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


# --- the listener ---------------------------------------------------------------------------------


class _ByteBudget:
    """So many bytes and no more; who wants some waits for its turn."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        if size == 0 or (not self._waiting and size <= self._free):
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            raise

    def give(self, size: int) -> None:
        self._free += size
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)


class Request:
    """One request as it came: its method, undecoded body, payload."""

    def __init__(
        self, method: Method[Any, Any], body: bytes, payload: memoryview, budget: _ByteBudget
    ) -> None:
        self.method = method
        self.body = body
        self.payload = payload
        self._budget = budget
        self._record: Any = None
        self.held = len(payload)

    def record(self) -> Any:
        """The body, decoded once: a record of `method.asks`, which the table of methods erases. Raises MalformedError."""
        if self._record is None:
            self._record = self.method.asks.decode(self.body)
        return self._record

    async def reserve(self, size: int) -> None:
        """Wait for room for `size` bytes of payload to answer with; freed when the answer is sent.

        Only for methods without a payload of their own, else two requests could wait for each other.
        """
        await self._budget.take(size)
        self.held += size


Answer: TypeAlias = tuple[Record, tuple[Buffer, ...]]
Work: TypeAlias = Callable[[], Awaitable[Answer]]
Handle: TypeAlias = Callable[[Request], Work]
"""Called in the order in which the requests came and must not raise; what it returns does the work."""


class Responder:
    """The listener's end of one connection. Calls in order: `greet`, `serve`; no tasks outlive them."""

    def __init__(
        self,
        stream: Stream,
        *,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        buffers: PayloadBuffers | None = None,
    ) -> None:
        self.stream = stream
        self._buffers = buffers or PayloadBuffers()
        self._idle_timeout_s = idle_timeout_s
        self._budget = _ByteBudget(IN_FLIGHT_BYTES_MAX)
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._writing = asyncio.Lock()

    async def greet(self, answer: Callable[[records.Hello], records.Hello]) -> None:
        """Read the dialler's hello and answer it; what `answer` raises is told to the peer and raised."""
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            header_size, payload_size = await _read_prefix(self.stream)
            if header_size > HELLO_HEADER_MAX or payload_size:
                raise PeerError("the peer did not say hello")
            envelope = await _read_envelope(self.stream, header_size, REQUEST)
        if envelope.method != Methods.HELLO.number:
            raise PeerError("the peer did not say hello")
        try:
            reply = answer(records.Hello.decode(envelope.body))
        except PotsherdError as error:
            await self._write(FAILURE, envelope, failure_of(error), ())
            raise
        await self._write(RESPONSE, envelope, reply, ())

    async def serve(self, handle: Handle) -> None:
        """Answer requests until the connection ends, then wait for what is under way. Never raises PeerError."""
        async with asyncio.TaskGroup() as tasks:
            try:
                while True:
                    envelope, request = await self._next_request()
                    await self._slots.acquire()
                    tasks.create_task(self._answer(envelope, request, handle(request)))
            except (PeerError, TimeoutError) as error:
                _LOG.debug("connection ends: %s", error)
                self.stream.abort()

    async def _next_request(self) -> tuple[Envelope, Request]:
        async with asyncio.timeout(self._idle_timeout_s):
            header_size, payload_size = await _read_prefix(self.stream)
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            envelope = await _read_envelope(self.stream, header_size, REQUEST)
        method = METHODS.get(envelope.method)
        if method is None or method is Methods.HELLO:
            raise PeerError("the peer asked for an unknown method")
        if payload_size and not method.sends:
            raise PeerError("the peer sent a payload where none belongs")
        await self._budget.take(payload_size)
        async with asyncio.timeout(time_for(payload_size, FRAME_TIMEOUT_S)):
            payload = await _read_payload(self.stream, self._buffers.take(payload_size))
        return envelope, Request(method, envelope.body, payload, self._budget)

    async def _answer(self, asked: Envelope, request: Request, work: Work) -> None:
        try:
            kind, body, payload = await self._work(request, work)
            await self._write(kind, asked, body, payload)
        except PeerError:
            self.stream.abort()
        finally:
            self._budget.give(request.held)
            self._slots.release()
            self._buffers.give(request.payload)

    async def _work(self, request: Request, work: Work) -> tuple[int, Record, tuple[Buffer, ...]]:
        try:
            body, payload = await work()
            return RESPONSE, body, payload
        except Exception as error:
            if not isinstance(error, PotsherdError):
                _LOG.exception("%s failed", request.method.name)
            return FAILURE, failure_of(error), ()

    async def _write(
        self, kind: int, asked: Envelope, body: Record, payload: tuple[Buffer, ...]
    ) -> None:
        size = sum(memoryview(part).nbytes for part in payload)
        frame = _frame(Envelope(kind, asked.request, asked.method, body.encode()), size)
        try:
            async with self._writing, asyncio.timeout(time_for(size, FRAME_TIMEOUT_S)):
                await self.stream.write(frame, *payload)
        except TimeoutError:
            raise PeerError("the peer does not take the answer") from None
