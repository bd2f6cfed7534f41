"""What every RPC goes through, health alone excepted.

    bunch ─ request id ─ deadline ─ is there room ─ who calls ─ may it ─ is it readable ─ handler ─ deadline again

Whatever comes of it is mapped to one status, counted, and told in one line of the access log.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from structlog.typing import FilteringBoundLogger

from tollkeeper_server.api.access_log import AccessLog
from tollkeeper_server.api.admission import Admission, overloaded
from tollkeeper_server.api.bunches import Bunches
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.errors import Context, DeadlineExceeded, Internal, abort, status_code
from tollkeeper_server.api.metadata import bearer_token, call_id, peer_address
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.errors import InvalidArgument, TollkeeperError, Unavailable, Violation

CALL_SECONDS_MAX = 10.0
DEADLINE_SLACK_SECONDS = 0.5
"""A deadline that is later than a call may take by no more than this is left to bound the call alone."""

Handler = Callable[..., Any]
BeginAnswer = Callable[[], Coroutine[Any, Any, bytes] | None]
"""Gives the work that is left until there is an answer; None if the message has to be read for it after all."""
Recall = Callable[[bytes, Call], bytes | BeginAnswer | None]
"""Gives the answer to a message, encoded, or what begins it; None if the message has to be read."""
HandlerT = TypeVar("HandlerT", bound=Handler)
T = TypeVar("T")

_PERMISSION = "caller_permission"
_OPEN_TO_USERS = "open_to_users"


class Authenticator(Protocol):
    """Tells who calls; see ``verify.callers.CallerAuthenticator``."""

    async def authenticate(self, token: str, *, address: str) -> Caller: ...


def rpc(permission: CallerPermission | None, *, open_to_users: bool = False) -> Callable[[HandlerT], HandlerT]:
    """Marks what answers an RPC, and names the permission that its callers need; None lets every known caller in.

    ``open_to_users`` lets signed-in users in as well: what answers knows that only what is theirs is there for them.

    A unary RPC is answered by ``async def Name(self, request, call)``, a streaming one by an async generator that takes
    an iterator of requests instead. Either answers messages of the RPC's type, as they are or encoded, or raises a
    TollkeeperError.
    """

    def mark(handler: HandlerT) -> HandlerT:
        setattr(handler, _PERMISSION, permission)
        setattr(handler, _OPEN_TO_USERS, open_to_users)
        return handler

    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What lets calls in: who tells callers apart, and where calls are counted and logged."""

    authenticator: Authenticator
    metrics: CallMetrics
    access_log: AccessLog
    log: FilteringBoundLogger
    """Where failures are told that nobody foresaw."""
    call_seconds_max: float = CALL_SECONDS_MAX
    """A unary call ends after so long, or at the caller's deadline if that is sooner or hardly later."""
    admission: Admission = field(default_factory=Admission)
    bunches: Bunches = field(default_factory=Bunches)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """To be set when the server is about to go."""

    def handler(
        self, method: MethodDescriptor, answer: Handler, *, recall: Recall | None = None
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """What gRPC serves ``method`` with; ``answer`` is marked with ``rpc``.

        ``recall`` may answer a unary call before it is read, and stands for who calls and that it may.
        """
        route = _Route(self, method, answer, recall)
        if not method.client_streaming:
            return grpc.unary_unary_rpc_method_handler(route.unary)  # it reads and writes by itself
        return grpc.stream_stream_rpc_method_handler(route.stream, route.decode, _encoded)


class _Route:
    """The way of every call of one RPC."""

    def __init__(self, gate: Gate, method: MethodDescriptor, answer: Handler, recall: Recall | None) -> None:
        self._gate = gate
        self._recall = recall
        self._log = gate.log.bind()  # once, not at each call
        self._name = method.name
        self._message = method.input_type.full_name
        self._from_bytes = GetMessageClass(method.input_type).FromString
        self._message_names_calls = "request_id" in method.input_type.fields_by_name
        self._metrics = gate.metrics.of(method.name)
        self._admission = gate.admission
        self._bunches = gate.bunches
        self._room = gate.admission.room_for(method.name)
        self._permission: CallerPermission | None = getattr(answer, _PERMISSION)
        self._open_to_users: bool = getattr(answer, _OPEN_TO_USERS)
        self._answer = answer

    async def unary(self, received: bytes, context: Context) -> bytes:
        call = self._begin(context)
        self._admission.under_way += 1
        try:
            bunched = self._bunches.join(self._look_at, call, received, context)
            remaining, answer = self._look_at(call, received, context) if bunched is None else await bunched
            if isinstance(answer, bytes):
                return answer
            work = None if answer is None else answer()
            if work is None:
                work = self._one(call, received, is_late=_is_over(remaining))
            if remaining is None or remaining > self._gate.call_seconds_max + DEADLINE_SLACK_SECONDS:
                response = await self._bounded(work)
            else:  # gRPC cancels the call at its deadline, and a timer of ours would only cost
                response = await work
            if _is_over(context.time_remaining()):  # so that no late answer passes for a timely one
                raise DeadlineExceeded
            return response
        except (asyncio.CancelledError, Exception) as error:
            await self._fail(call, context, error)
        finally:
            self._admission.under_way -= 1
            self._end(call)

    def _look_at(
        self, call: Call, received: bytes, context: Context
    ) -> tuple[float | None, bytes | BeginAnswer | None]:
        """How many seconds the call has left, and what can be told without reading it."""
        call.metadata = context.invocation_metadata() or ()
        remaining = context.time_remaining()
        if self._recall is None or self._admission.under_way > self._room or _is_over(remaining):
            return remaining, None
        return remaining, self._recall(received, call)

    async def stream(self, requests: AsyncIterable[Any], context: Context) -> None:
        call = self._begin(context)
        try:
            await self._many(call, requests, context)
        except (asyncio.CancelledError, Exception) as error:
            await self._fail(call, context, error)
        finally:
            self._end(call)

    async def _one(self, call: Call, received: bytes, *, is_late: bool) -> bytes:
        request = self.decode(received)
        named = request.request_id if self._message_names_calls and request is not _UNREADABLE else ""
        call.request_id = call_id(call.metadata, named=named)
        if is_late:
            raise DeadlineExceeded
        if self._admission.under_way > self._room:
            raise overloaded()
        await self._admit(call)
        return _encoded(await self._answer(self._readable(request), call))

    async def _many(self, call: Call, requests: AsyncIterable[Any], context: Context) -> None:
        call.metadata = context.invocation_metadata() or ()
        call.request_id = call_id(call.metadata, named="")
        call.draining = self._gate.draining
        call.readmit = partial(self._admit, call)
        await call.readmit()
        await context.send_initial_metadata(())  # tells a client that waits for it that it is let in
        async with aclosing(self._answer(self._all_readable(requests), call)) as responses:
            async for response in responses:
                await context.write(response)

    async def _admit(self, call: Call) -> None:
        call.caller = await self._gate.authenticator.authenticate(bearer_token(call.metadata), address=call.address)
        if self._permission is not None:
            call.caller.require(self._permission, open_to_users=self._open_to_users)

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        bound = asyncio.timeout(self._gate.call_seconds_max)
        try:
            async with bound:
                result = await work
        except TimeoutError:
            if not bound.expired():
                raise
        if bound.expired():
            raise DeadlineExceeded
        return result

    def decode(self, received: bytes) -> Any:
        """The message, or what stands for one that is not of its type."""
        try:
            return self._from_bytes(received)
        except DecodeError:
            return _UNREADABLE

    def _readable(self, request: Any) -> Any:
        if request is _UNREADABLE:
            raise InvalidArgument([Violation("request", f"must be a message of type {self._message}")])
        return request

    async def _all_readable(self, requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._readable(request)

    def _begin(self, context: Context) -> Call:
        self._metrics.begin()
        return Call(self._name, peer_address(context.peer()))

    async def _fail(self, call: Call, context: Context, error: BaseException) -> NoReturn:
        """End the call with the status of what went wrong."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                call.code = "DEADLINE_EXCEEDED" if _is_over(context.time_remaining()) else "CANCELLED"
                raise error
            # What it waited for was cancelled, not the call.
            error = Unavailable("the work was cancelled", reason="WORK_CANCELLED")
        elif not isinstance(error, TollkeeperError):
            self._log.error("call_failed", method=self._name, exc_info=error, **call.names())
            error = Internal()
        call.code, call.reason = status_code(error).name, error.reason
        await abort(context, error, request_id=call.request_id)

    def _end(self, call: Call) -> None:
        call.seconds = perf_counter() - call.started
        self._metrics.end(call.code, seconds=call.seconds)
        self._gate.access_log.tell(call)


_UNREADABLE = object()
"""Stands for a message that is not of its type, until it is known who sent it."""


def _encoded(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _is_over(remaining: float | None) -> bool:
    return remaining is not None and remaining <= 0
