"""A call that repeats an earlier one is answered as if it were the first: same decision, same trace, no key kept."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tests.unit.memory_support import AGE_MAX, API_KEY, KEYRING, LEASE, NOW, Memory, record, records, run
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api import repeats
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.verification import VerificationServicer
from tollkeeper_server.core.errors import InvalidArgument, TollkeeperError
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.verify.callers import CallerAuthenticator
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.proofs import Places, Proofs
from tollkeeper_server.verify.quotas import Quotas
from tollkeeper_server.verify.verification import Precedent

TOKEN = KEYRING.mint(prefix="tk", length=43, seed=KEYRING.new_seed(b"c" * 32))
NO_QUOTAS: Quotas = None  # type: ignore[assignment]
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.1"
ASKED = pb.VerifyRequest(api_key=API_KEY, client_ip=HOME)


def caller(shown: SecretRecord) -> SecretRecord:
    """A record like ``shown``, of a caller that may verify."""
    return replace(shown, key=replace(shown.key, key_id="key_2", tenant_id="acme"), digest=KEYRING.digest(TOKEN))


class Server:
    """Verify as it is served from memory, at any time."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        verifier = self.memory.verifier
        proofs = Proofs(verifier)
        self.authenticator = CallerAuthenticator(verifier, proofs=proofs)
        self.servicer = VerificationServicer(
            verifier=verifier,
            quotas=NO_QUOTAS,
            proofs=proofs,
            watchers=self.memory.replica.watchers,
            metrics=CallMetrics(CollectorRegistry()),
        )
        self.repeats = self.servicer.repeats

    def call(self, address: str = HOME, *, more: tuple[tuple[str, str], ...] = ()) -> Call:
        call = Call("Verify", address)
        call.metadata = (("authorization", f"Bearer {TOKEN}"), *more)
        return call

    def recall(self, request: pb.VerifyRequest, call: Call) -> pb.VerifyResponse | None:
        """What is told without reading the request."""
        answer = self.repeats.recall(request.SerializeToString(), call)
        assert answer is None or isinstance(answer, bytes)
        return None if answer is None else pb.VerifyResponse.FromString(answer)

    def read(self, request: pb.VerifyRequest, call: Call) -> pb.VerifyResponse | None:
        """What is told if it is read; None if memory does not suffice, or the caller may not call."""

        async def work() -> bytes:
            call.caller = await self.authenticator.authenticate(TOKEN, address=call.address)
            return await self.servicer.Verify(request, call)

        try:
            return pb.VerifyResponse.FromString(run(work()))
        except TollkeeperError:
            return None

    def ask(self, request: pb.VerifyRequest, address: str = HOME) -> pb.VerifyResponse | None:
        """As a server answers: from what is remembered, or else by reading."""
        call = self.call(address)
        return self.recall(request, call) or self.read(request, call)

    def traces(self) -> list[Any]:
        return sorted(
            (it.key.key_id, it.starts_at, it.digests, it.networks(), it.decisions, it.units)
            for it in self.memory.usage.take()
        )


moments = st.sampled_from([0.0, 5.0, 9.99, 10.0, 30.0, AGE_MAX, LEASE])
changes = st.sampled_from(["", "", "key_1", "key_2"])


@given(
    key=records,
    calling=records,
    then=st.none() | records,
    changed=changes,
    address=st.sampled_from([HOME, HOME, ELSEWHERE]),
    at=moments,
)
def test_what_is_recalled_is_what_would_be_read(
    key: SecretRecord, calling: SecretRecord, then: SecretRecord | None, changed: str, address: str, at: float
) -> None:
    compare(key, calling, then=then, changed=changed, address=address, at=at)


def compare(
    key: SecretRecord,
    calling: SecretRecord,
    *,
    then: SecretRecord | None = None,
    changed: str = "",
    address: str = HOME,
    at: float = 0.0,
) -> bool:
    """Whether the third call was recalled; then it and its trace are as of a server that remembers no call."""
    server = asked_twice(key, calling, then=then, changed=changed, at=at)
    again, anew = server.call(address), server.call(address)
    recalled, recalled_trace = server.recall(ASKED, again), server.traces()
    read, read_trace = Server(server.memory).read(ASKED, anew), server.traces()
    if recalled is None:
        return False
    assert read is not None
    assert recalled.request_id == again.request_id != anew.request_id
    recalled.request_id = read.request_id
    assert recalled == read
    assert (again.caller, again.decision) == (anew.caller, anew.decision)
    assert recalled_trace == read_trace
    return True


def asked_twice(
    key: SecretRecord, calling: SecretRecord, *, then: SecretRecord | None = None, changed: str = "", at: float = 0.0
) -> Server:
    """A server that was asked twice, to which something happened then."""
    server = Server()
    server.memory.store(key)
    server.memory.store(caller(calling))
    for _ in range(2):
        server.ask(ASKED)
    server.memory.at = at
    if changed:
        server.memory.cache.change(changed, revision=2)
        server.memory.replica.revision = 2
    if then is not None:
        server.memory.store(then if changed != "key_2" else caller(then), revision=2)
    server.traces()
    return server


@given(key=records, then=st.none() | records, changed=changes, at=moments)
def test_a_question_that_was_asked_before_is_answered_as_if_it_were_the_first(
    key: SecretRecord, then: SecretRecord | None, changed: str, at: float
) -> None:
    compare_questions(key, then=then, changed=changed, at=at)


def compare_questions(
    key: SecretRecord, *, then: SecretRecord | None = None, changed: str = "", at: float = 0.0
) -> None:
    """Under another id, which makes it another call."""
    server = asked_twice(key, record(), then=then, changed=changed, at=at)
    asked = pb.VerifyRequest(request_id="r-1")
    asked.MergeFrom(ASKED)
    once_more, trace = server.read(asked, server.call()), server.traces()
    anew, trace_anew = Server(server.memory).read(asked, server.call()), server.traces()
    assert once_more == anew
    assert trace == trace_anew


def test_a_question_that_was_asked_before_is_not_read_whatever_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    server = asked_twice(record(), record())
    monkeypatch.setattr(server.servicer._questions, "read", None)
    asked = pb.VerifyRequest(request_id="r-1")
    asked.MergeFrom(ASKED)
    answer = server.read(asked, server.call())
    assert answer is not None
    assert (answer.code, answer.request_id) == (pb.DECISION_CODE_ALLOWED, "r-1")


def test_an_id_that_is_not_valid_is_refused_also_where_the_question_is_known() -> None:
    server = asked_twice(record(), record())
    asked = pb.VerifyRequest(request_id="no space")
    asked.MergeFrom(ASKED)
    with pytest.raises(InvalidArgument):
        server.servicer._begin_one(asked, called(server), request_id="new")


def called(server: Server) -> Call:
    """A call of which it is known who calls."""
    call = server.call()
    call.caller = run(server.authenticator.authenticate(TOKEN, address=HOME))
    return call


def test_the_third_call_of_its_kind_is_recalled() -> None:
    assert compare(record(), record())


@pytest.mark.parametrize("changed", ["key_1", "key_2"])
def test_a_call_is_recalled_again_once_its_records_were_read_anew(changed: str) -> None:
    server = asked_twice(record(), record())
    assert server.recall(ASKED, server.call()) is not None
    server.memory.cache.change(changed, revision=2)
    server.memory.store(record() if changed == "key_1" else caller(record()), revision=2)
    assert server.recall(ASKED, server.call()) is None
    server.ask(ASKED)
    assert server.recall(ASKED, server.call()) is not None


@pytest.mark.parametrize(
    "other",
    [
        pb.VerifyRequest(api_key=API_KEY),
        pb.VerifyRequest(api_key=API_KEY, client_ip=HOME, resource="api"),
        pb.VerifyRequest(api_key=API_KEY, client_ip=HOME, request_id="r-1"),
        pb.VerifyRequest(api_key=API_KEY[:-1], client_ip=HOME),
    ],
)
def test_no_other_message_is_taken_for_it(other: pb.VerifyRequest) -> None:
    server = Server()
    server.memory.store(record())
    server.memory.store(caller(record()))
    for _ in range(3):
        assert server.ask(ASKED)
    assert server.recall(ASKED, server.call()) is not None
    assert server.recall(other, server.call()) is None
    assert server.recall(ASKED, server.call(ELSEWHERE)) is None
    assert server.recall(ASKED, server.call(more=(("authorization", "Bearer x"),))) is None


def test_credentials_are_never_taken_for_the_beginning_of_a_message() -> None:
    server = Server()
    server.memory.store(record())
    server.memory.store(caller(record()))
    asked = pb.VerifyRequest(api_key=API_KEY, resource="r" * ord(" "))  # the length of it is a space, encoded
    for _ in range(3):
        assert server.ask(asked)
    head, _, rest = asked.SerializeToString().rpartition(b" ")
    call = server.call()
    call.metadata = (("authorization", f"Bearer {TOKEN} {head.decode()}"),)
    assert server.repeats.recall(rest, call) is None


def test_a_request_with_an_id_of_its_own_is_read_each_time() -> None:
    server = Server()
    server.memory.store(record())
    server.memory.store(caller(record()))
    asked = pb.VerifyRequest(api_key=API_KEY, request_id="r-1")
    for _ in range(3):
        assert server.ask(asked)
    assert server.recall(asked, server.call()) is None


def test_what_is_remembered_is_bounded_and_holds_no_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REPEATS_MAX", 5)
    monkeypatch.setattr(repeats, "SEEN_MAX", 7)
    server = Server()
    server.memory.store(record())
    server.memory.store(caller(record()))
    for number in range(20):
        for _ in range(2):
            server.ask(pb.VerifyRequest(api_key=API_KEY, resource=f"r{number}"))
    assert len(server.repeats._repeats) == 5
    assert len(server.repeats._repeats._seen) == 7
    remembered = repr((vars(server.repeats._repeats), vars(server.servicer._known)))
    assert API_KEY not in remembered
    assert TOKEN not in remembered


@pytest.mark.parametrize("fault", ["holds", "ends_at", "address"])
def test_a_repeat_believed_without_looking_would_be_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as planted:
        if fault == "holds":
            planted.setattr(KeyDirectory, "holds", lambda *_: True)
            with pytest.raises(AssertionError):
                compare(record(), record(), changed="key_1")
            with pytest.raises(AssertionError):
                compare_questions(record(), changed="key_1")
        elif fault == "ends_at":
            planted.setattr(Precedent, "ends_at", NOW + timedelta(days=1))
            with pytest.raises(AssertionError):
                compare(record(expires_at=NOW + timedelta(seconds=5)), record(), at=10)
            with pytest.raises(AssertionError):
                compare_questions(record(expires_at=NOW + timedelta(seconds=5)), at=10)
        else:
            of = Places.of
            planted.setattr(Places, "of", lambda self, message: of(self, message[max(0, message.find(b" Bearer ")) :]))
            with pytest.raises(AssertionError):
                compare(record(), record(), address=ELSEWHERE)


def test_without_the_lease_nothing_is_recalled() -> None:
    server = Server()
    server.memory.store(record())
    server.memory.store(caller(record()))
    for _ in range(3):
        server.ask(ASKED)
    server.memory.replica._lease.end()
    assert server.recall(ASKED, server.call()) is None
