"""Every call goes through the same gate: named, bounded in time, authenticated, mapped, counted, told in one line."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import grpc
import pytest
from prometheus_client import CollectorRegistry

from tests.tools.refusals import refused
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper.v1 import verification_service_pb2_grpc as pb_grpc
from tollkeeper_server.api import bunches
from tollkeeper_server.api.access_log import AccessLog
from tollkeeper_server.api.bunches import Bunches
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.handler import Gate, rpc
from tollkeeper_server.api.metadata import peer_address
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import InvalidArgument, NotFound, Unauthenticated, Unavailable, Violation

SERVICE = pb.DESCRIPTOR.services_by_name["VerificationService"]
TOKEN = "tk_token-of-the-caller"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
KNOWN = Caller(key_id="key_1", tenant_id="acme", permissions=("tollkeeper:verify",))
CALL_SECONDS_MAX = 0.3


class Log:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._call_told = asyncio.Event()

    def bind(self) -> Self:
        return self

    def is_enabled_for(self, _level: int) -> bool:
        return True

    def info(self, event: str, *, each: Sequence[dict[str, Any]] = ({},), **fields: Any) -> None:
        self.lines += [{"event": event, "level": "info", **fields, **more} for more in each]
        self._call_told.set()

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, "level": "error", **fields})

    async def access_lines(self, count: int) -> list[dict[str, Any]]:
        """The lines of the calls that were made, which the server may write after the client has its answer."""
        while len(found := [line for line in self.lines if line["event"] == "call"]) < count:
            self._call_told.clear()
            await asyncio.wait_for(self._call_told.wait(), 5)
        assert len(found) == count
        return found

    async def access_line(self) -> dict[str, Any]:
        """The line of the one call that was made, without the moment of it."""
        (line,) = await self.access_lines(1)
        assert abs((datetime.now(UTC) - line.pop("timestamp")).total_seconds()) < 60
        return line


class Authenticator:
    """Knows one token."""

    def __init__(self) -> None:
        self.caller = KNOWN
        self.asked: list[str] = []

    async def authenticate(self, token: str, *, address: str) -> Caller:
        self.asked.append(address)
        if token != TOKEN:
            raise Unauthenticated("the caller was not recognized", reason="CALLER_KEY_INVALID")
        return self.caller


class Service:
    """Answers as each test wants it to."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, Call], Awaitable[Any]] = self.allow
        self.calls = 0

    async def allow(self, _request: pb.VerifyRequest, call: Call) -> pb.VerifyResponse:
        call.decision = DecisionCode.ALLOWED
        return pb.VerifyResponse(code=pb.DECISION_CODE_ALLOWED, request_id=call.request_id)

    @rpc(CallerPermission.VERIFY)
    async def Verify(self, request: pb.VerifyRequest, call: Call) -> Any:
        self.calls += 1
        return await self.answer(request, call)

    @rpc(CallerPermission.VERIFY)
    async def VerifyStream(
        self, requests: AsyncIterator[pb.VerifyStreamRequest], call: Call
    ) -> AsyncIterator[pb.VerifyStreamResponse]:
        self.calls += 1
        async for request in requests:
            await self.answer(request, call)
            yield pb.VerifyStreamResponse(batch_id=request.batch_id)

    WatchInvalidations = VerifyStream

    @rpc(None)
    async def CheckQuota(self, _request: pb.CheckQuotaRequest, _call: Call) -> pb.CheckQuotaResponse:
        return pb.CheckQuotaResponse()

    BatchVerify = CheckQuota
    Settle = CheckQuota


class Harness:
    """A server behind the gate, with a client in front."""

    def __init__(self, *, call_seconds_max: float = CALL_SECONDS_MAX, bunches: Bunches | None = None) -> None:
        self.authenticator = Authenticator()
        self.log = Log()
        self.registry = CollectorRegistry()
        self.service = Service()
        self.gate = Gate(
            authenticator=self.authenticator,
            metrics=CallMetrics(self.registry),
            access_log=AccessLog(self.log),  # type: ignore[arg-type]
            log=self.log,  # type: ignore[arg-type]  # has what the gate uses of a logger
            call_seconds_max=call_seconds_max,
            bunches=bunches or Bunches(),
        )

    async def __aenter__(self) -> "Harness":
        self._server = grpc.aio.server()
        handlers = {
            method.name: self.gate.handler(method, getattr(self.service, method.name)) for method in SERVICE.methods
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub: Any = pb_grpc.VerificationServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self._server.stop(None)

    async def verify(self, metadata: Any = AUTHORIZED, timeout: float | None = 5, **fields: Any) -> pb.VerifyResponse:
        response = await self.stub.Verify(pb.VerifyRequest(**fields), metadata=metadata, timeout=timeout)
        assert isinstance(response, pb.VerifyResponse)
        return response


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with Harness() as harness:
        yield harness


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), "CALLER_CREDENTIALS_MISSING"),
        ((("x-api-key", TOKEN),), "CALLER_CREDENTIALS_MISSING"),
        ((("authorization", TOKEN),), "CALLER_CREDENTIALS_MALFORMED"),
        ((("authorization", "Bearer"),), "CALLER_CREDENTIALS_MALFORMED"),
        ((("authorization", "Bearer a b"),), "CALLER_CREDENTIALS_MALFORMED"),
        ((("authorization", f"Basic {TOKEN}"),), "CALLER_CREDENTIALS_MALFORMED"),
        ((("authorization", "Bearer " + "x" * 4097),), "CALLER_CREDENTIALS_MALFORMED"),
        ((*AUTHORIZED, *AUTHORIZED), "CALLER_CREDENTIALS_AMBIGUOUS"),
        ((("authorization", "Bearer tk_wrong"),), "CALLER_KEY_INVALID"),
    ],
)
async def test_a_caller_that_does_not_prove_who_it_is_gets_nowhere(
    harness: Harness, metadata: Any, expected: str
) -> None:
    with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
        await harness.verify(metadata)
    assert details.reason == expected
    assert harness.service.calls == 0
    assert TOKEN not in str(details)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_of_the_credentials_may_be_written_in_any_case(harness: Harness, scheme: str) -> None:
    assert (await harness.verify((("authorization", f"{scheme} {TOKEN}"),))).code == pb.DECISION_CODE_ALLOWED


async def test_a_caller_without_the_permission_of_the_rpc_is_told_which_one_it_lacks(harness: Harness) -> None:
    harness.authenticator.caller = Caller(key_id="key_2", tenant_id="acme", permissions=("tollkeeper:keys.read", "*"))
    with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
        await harness.verify()
    assert details.metadata == {"permission": "tollkeeper:verify"}
    assert harness.service.calls == 0
    await harness.stub.CheckQuota(pb.CheckQuotaRequest(), metadata=AUTHORIZED)


async def test_the_caller_is_authenticated_with_the_address_it_calls_from(harness: Harness) -> None:
    await harness.verify()
    assert harness.authenticator.asked == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:55000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:55000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:55000", "2001:db8::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:55000", "fe80::1%eth0"),
        ("unix:/run/tollkeeper.sock", ""),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer_is_told_without_port(peer: str, address: str) -> None:
    assert peer_address(peer) == address


@pytest.mark.parametrize(
    ("in_message", "in_metadata", "expected"),
    [
        ("message-1", "metadata-1", "message-1"),
        ("", "metadata-1", "metadata-1"),
        ("not well-formed", "metadata-1", "metadata-1"),
    ],
)
async def test_a_call_is_named_by_its_message_or_else_by_its_metadata(
    harness: Harness, in_message: str, in_metadata: str, expected: str
) -> None:
    response = await harness.verify((*AUTHORIZED, ("x-request-id", in_metadata)), request_id=in_message)
    assert response.request_id == expected
    assert (await harness.log.access_line())["request_id"] == expected


@pytest.mark.parametrize("malformed", ["", "a b", "x" * 65, "a/b"])
async def test_a_call_without_a_well_formed_name_gets_one_of_its_own(harness: Harness, malformed: str) -> None:
    metadata = (*AUTHORIZED, ("x-request-id", malformed))
    names = {(await harness.verify(metadata)).request_id for _ in range(3)}
    assert len(names) == 3
    assert malformed not in names


async def test_the_access_line_tells_who_called_what_and_how_it_ended_and_nothing_of_the_request(
    harness: Harness,
) -> None:
    await harness.verify(api_key="tk_secret", request_id="r-1")
    line = await harness.log.access_line()
    assert line.pop("duration_ms") > 0
    assert line == {
        "event": "call",
        "level": "info",
        "method": "Verify",
        "code": "OK",
        "peer": "127.0.0.1",
        "request_id": "r-1",
        "caller": "key_1",
        "tenant": "acme",
        "decision": "ALLOWED",
    }


async def test_the_access_line_of_a_refused_call_tells_why(harness: Harness) -> None:
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        await harness.verify((), request_id="r-1")
    line = await harness.log.access_line()
    assert line.pop("duration_ms") > 0
    assert line == {
        "event": "call",
        "level": "info",
        "method": "Verify",
        "code": "UNAUTHENTICATED",
        "peer": "127.0.0.1",
        "request_id": "r-1",
        "reason": "CALLER_CREDENTIALS_MISSING",
    }


async def test_an_unexpected_error_is_told_to_the_log_and_not_to_the_caller(harness: Harness) -> None:
    async def fail(_request: Any, _call: Call) -> None:
        raise ValueError("password of the database")

    harness.service.answer = fail
    with refused(grpc.StatusCode.INTERNAL) as details:
        await harness.verify(request_id="r-1")
    assert details.reason == "INTERNAL"
    assert details.request_id == "r-1"
    assert "password" not in str(details)
    (logged,) = [line for line in harness.log.lines if line["level"] == "error"]
    assert logged["event"] == "call_failed"
    assert logged["request_id"] == "r-1"
    assert isinstance(logged["exc_info"], ValueError)


async def test_a_store_that_is_away_makes_the_call_unavailable_and_says_when_to_come_back(harness: Harness) -> None:
    async def fail(_request: Any, _call: Call) -> None:
        raise Unavailable("the database did not answer", reason="POSTGRES_UNAVAILABLE")

    harness.service.answer = fail
    with refused(grpc.StatusCode.UNAVAILABLE) as details:
        await harness.verify()
    assert details.reason == "POSTGRES_UNAVAILABLE"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 500
    call = harness.stub.Verify(pb.VerifyRequest(), metadata=AUTHORIZED)
    assert (await call.trailing_metadata())["grpc-retry-pushback-ms"] == "500"


async def test_any_number_of_violations_arrives_at_the_client(harness: Harness) -> None:
    async def fail(_request: Any, _call: Call) -> None:
        raise InvalidArgument([Violation(f"permissions[{index}]", "must be ü" * 10) for index in range(1000)])

    harness.service.answer = fail
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await harness.verify(request_id="r" * 64)
    assert len(details.fields) > 10


@pytest.mark.parametrize("timeout", [None, 60])
async def test_a_call_that_sets_no_deadline_or_a_far_one_is_bounded_all_the_same(
    harness: Harness, timeout: float | None
) -> None:
    async def stall(_request: Any, _call: Call) -> None:
        await asyncio.get_running_loop().create_future()

    harness.service.answer = stall
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED) as details:
        await harness.verify(timeout=timeout)
    assert details.reason == "DEADLINE_EXCEEDED"
    assert (await harness.log.access_line())["duration_ms"] >= CALL_SECONDS_MAX * 1000


async def test_work_ends_at_the_deadline_of_the_caller() -> None:
    ended = asyncio.Event()

    async def stall(_request: Any, _call: Call) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with Harness(call_seconds_max=600) as harness:
        harness.service.answer = stall
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.verify(timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), 60)
        assert (await harness.log.access_line())["code"] == "DEADLINE_EXCEEDED"


async def test_an_answer_that_comes_too_late_is_none(harness: Harness) -> None:
    async def allow_late(request: Any, call: Call) -> pb.VerifyResponse:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        return await harness.service.allow(request, call)

    harness.service.answer = allow_late
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        await harness.verify(timeout=None)


async def test_a_call_that_expired_before_it_was_looked_at_is_not_begun(harness: Harness) -> None:
    class Expired:
        refusal: grpc.StatusCode | None = None

        def time_remaining(self) -> float:
            return 0.0

        def invocation_metadata(self) -> Any:
            return AUTHORIZED

        def peer(self) -> str:
            return "unix:"

        async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
            self.refusal = code
            raise grpc.aio.AbortError

    context = Expired()
    handler: Any = harness.gate.handler(SERVICE.methods_by_name["Verify"], harness.service.Verify)
    with pytest.raises(grpc.aio.AbortError):
        await handler.unary_unary(b"", context)
    assert context.refusal is grpc.StatusCode.DEADLINE_EXCEEDED
    assert harness.authenticator.asked == []
    assert harness.service.calls == 0


async def test_a_timeout_inside_the_work_is_not_taken_for_the_deadline(harness: Harness) -> None:
    async def fail(_request: Any, _call: Call) -> None:
        raise TimeoutError

    harness.service.answer = fail
    with refused(grpc.StatusCode.INTERNAL):
        await harness.verify(timeout=None)


async def test_work_that_is_cancelled_from_within_makes_the_call_unavailable(harness: Harness) -> None:
    async def fail(_request: Any, _call: Call) -> None:
        raise asyncio.CancelledError

    harness.service.answer = fail
    with refused(grpc.StatusCode.UNAVAILABLE) as details:
        await harness.verify()
    assert details.reason == "WORK_CANCELLED"


async def test_a_call_that_its_caller_gave_up_is_told_as_cancelled(harness: Harness) -> None:
    begun = asyncio.Event()

    async def stall(_request: Any, _call: Call) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    harness.service.answer = stall
    call = harness.stub.Verify(pb.VerifyRequest(), metadata=AUTHORIZED)
    await asyncio.wait_for(begun.wait(), 5)
    call.cancel()
    assert (await harness.log.access_line())["code"] == "CANCELLED"


async def test_bytes_that_are_no_message_are_an_invalid_argument_of_known_callers_only(harness: Harness) -> None:
    raw: Any = harness.channel.unary_unary(f"/{SERVICE.full_name}/Verify")
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        await raw(b"\x12\x02\xff\xfe")
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await raw(b"\x12\x02\xff\xfe", metadata=AUTHORIZED)
    (violation,) = details["BadRequest"].field_violations
    assert violation.description == "must be a message of type tollkeeper.v1.VerifyRequest"
    assert harness.service.calls == 0


async def test_calls_are_counted_by_method_and_status_and_timed_by_method(harness: Harness) -> None:
    await harness.verify()
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        await harness.verify(())
    await harness.log.access_lines(2)
    value = harness.registry.get_sample_value
    assert value("tollkeeper_calls_total", {"method": "Verify", "code": "OK"}) == 1
    assert value("tollkeeper_calls_total", {"method": "Verify", "code": "UNAUTHENTICATED"}) == 1
    assert value("tollkeeper_call_seconds_count", {"method": "Verify"}) == 2
    assert value("tollkeeper_calls_in_flight", {"method": "Verify"}) == 0


async def test_calls_under_way_are_counted(harness: Harness) -> None:
    async def look(_request: Any, _call: Call) -> pb.VerifyResponse:
        assert harness.registry.get_sample_value("tollkeeper_calls_in_flight", {"method": "Verify"}) == 1
        return pb.VerifyResponse()

    harness.service.answer = look
    await harness.verify()


async def stream(harness: Harness, *batch_ids: int, metadata: Any = AUTHORIZED) -> list[int]:
    requests = [pb.VerifyStreamRequest(batch_id=batch_id) for batch_id in batch_ids]
    return [response.batch_id async for response in harness.stub.VerifyStream(iter(requests), metadata=metadata)]


async def test_a_stream_is_answered_message_by_message_and_told_in_one_line_at_its_end(harness: Harness) -> None:
    assert await stream(harness, 1, 2, 3, metadata=(*AUTHORIZED, ("x-request-id", "s-1"))) == [1, 2, 3]
    line = await harness.log.access_line()
    assert (line["method"], line["code"], line["request_id"]) == ("VerifyStream", "OK", "s-1")


# A refused stream is only read from: grpc.aio tells a write that comes too late as an internal error of the client.


async def test_a_stream_needs_a_caller_too(harness: Harness) -> None:
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        await harness.stub.VerifyStream().read()
    assert harness.service.calls == 0


async def test_a_fault_inside_a_stream_ends_it_with_its_status(harness: Harness) -> None:
    async def fail(request: pb.VerifyStreamRequest, _call: Call) -> None:
        if request.batch_id == 2:
            raise NotFound("there is no such key", reason="KEY_NOT_FOUND")

    harness.service.answer = fail
    call = harness.stub.VerifyStream(metadata=AUTHORIZED)
    await call.write(pb.VerifyStreamRequest(batch_id=1))
    assert (await call.read()).batch_id == 1
    await call.write(pb.VerifyStreamRequest(batch_id=2))
    with refused(grpc.StatusCode.NOT_FOUND) as details:
        await call.read()
    assert details.reason == "KEY_NOT_FOUND"
    assert (await harness.log.access_line())["reason"] == "KEY_NOT_FOUND"


async def test_bytes_that_are_no_message_end_a_stream_as_an_invalid_argument(harness: Harness) -> None:
    raw: Any = harness.channel.stream_stream(f"/{SERVICE.full_name}/VerifyStream")
    call = raw(metadata=AUTHORIZED)
    await call.write(b"\xff")
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        await call.read()


async def test_a_stream_that_its_caller_gave_up_ends_its_handler_and_is_told_as_cancelled(harness: Harness) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stall(_request: Any, _call: Call) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    harness.service.answer = stall
    call = harness.stub.VerifyStream(metadata=AUTHORIZED)
    await call.write(pb.VerifyStreamRequest(batch_id=1))
    await asyncio.wait_for(begun.wait(), 5)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    assert (await harness.log.access_line())["code"] == "CANCELLED"


class Waits(Bunches):
    """Counts the calls that have to wait for others."""

    waited = 0

    def join(self, handle: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any] | None:
        place = super().join(handle, *arguments)
        self.waited += place is not None
        return place


class OneThatNeverLeaves(Bunches):
    """Makes every call wait, and tells when one does."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()

    def join(self, handle: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        place: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.joined.put_nowait(place)
        return place


async def test_calls_that_waited_for_one_another_are_answered_each_on_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bunches, "WAIT_SECONDS", 0.1)
    waits = Waits()
    names = [f"call-{number}" for number in range(100)]
    async with Harness(bunches=waits) as harness:
        for _ in range(bunches.TRIED_FROM):  # a sign of load
            assert waits.join(int) is None
        answers = await asyncio.gather(*(harness.verify(request_id=name, timeout=None) for name in names))
        assert [answer.request_id for answer in answers] == names
        assert harness.service.calls == len(names)
        assert waits.waited >= bunches.BUNCH_MIN
        assert harness.gate.admission.under_way == 0


async def test_a_call_whose_deadline_passes_while_it_waits_for_others_is_not_handled() -> None:
    async with Harness(bunches=OneThatNeverLeaves()) as harness:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.verify(timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await harness.log.access_line())["code"] == "DEADLINE_EXCEEDED"
        assert harness.service.calls == 0
        assert harness.gate.admission.under_way == 0


async def test_a_caller_that_leaves_while_it_waits_for_others_is_not_handled() -> None:
    never_leaves = OneThatNeverLeaves()
    async with Harness(bunches=never_leaves) as harness:
        call = harness.stub.Verify(pb.VerifyRequest(), metadata=AUTHORIZED)
        place = await asyncio.wait_for(never_leaves.joined.get(), timeout=10)
        call.cancel()
        assert (await harness.log.access_line())["code"] == "CANCELLED"
        assert place.cancelled()
        assert harness.service.calls == 0
