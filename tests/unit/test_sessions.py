"""Sessions: a server acknowledges what every client with a lease has, and no client keeps it back for longer."""

import pytest

from tollkeeper_server.core.changes import Change
from tollkeeper_server.core.lease import DRIFT
from tollkeeper_server.core.sessions import FAREWELL, News, Session, Sessions

LEASE = 2.0


def change(revision: int, *, tenant: str = "acme") -> Change:
    return Change(revision, tenant, f"key_{revision}", adds_secret=False, imports=False)


@pytest.fixture
def sessions() -> Sessions:
    """Of a server that has applied ten changes, and remembers the last five."""
    sessions = Sessions(recent_max=5, pending_max=3)
    for revision in range(1, 11):
        sessions.apply(change(revision))
    return sessions


def take(sessions: Sessions, session: Session, *, now: float = 0.0, lease: float = LEASE) -> News | None:
    return session.take(now=now, lease_seconds=lease, revision=sessions.revision, at_most=2)


def holder(sessions: Sessions, *, tenant: str | None = None, now: float = 0.0) -> Session:
    """A session with a lease."""
    session = sessions.open(tenant, acknowledged=sessions.revision)
    session.ask(1)
    news = take(sessions, session, now=now)
    assert news is not None
    assert news.renewal == 1
    return session


def test_a_client_without_a_lease_keeps_nothing_back(sessions: Sessions) -> None:
    sessions.open(None, acknowledged=0)
    sessions.apply(change(11))
    assert sessions.frontier(0.0) == 11


def test_the_frontier_waits_for_each_client_with_a_lease(sessions: Sessions) -> None:
    one, two = holder(sessions), holder(sessions)
    sessions.apply(change(11))
    assert sessions.frontier(1.0) == 10
    sessions.acknowledge(one, 11)
    assert sessions.frontier(1.0) == 10
    sessions.acknowledge(two, 11)
    assert sessions.frontier(1.0) == 11


def test_the_frontier_waits_no_longer_than_the_lease_even_on_clocks_of_different_speed(sessions: Sessions) -> None:
    holder(sessions)
    sessions.apply(change(11))
    end = LEASE * (1 + DRIFT)
    assert sessions.next_end(0.0) == sessions.last_end() == end
    assert sessions.frontier(end - 0.001) == 10
    assert sessions.frontier(end) == 11
    assert sessions.next_end(end) is None


def test_a_client_whose_stream_broke_is_waited_for_and_then_forgotten(sessions: Sessions) -> None:
    session = holder(sessions)
    sessions.close(session, now=0.5)
    sessions.apply(change(11))
    assert (sessions.frontier(1.0), len(sessions)) == (10, 1)
    assert (sessions.frontier(LEASE * (1 + DRIFT)), len(sessions)) == (11, 0)


def test_a_client_that_said_farewell_is_not_waited_for_and_gets_no_lease(sessions: Sessions) -> None:
    session = holder(sessions)
    sessions.apply(change(11))
    sessions.acknowledge(session, FAREWELL)
    session.ask(2)
    assert sessions.frontier(0.1) == 11
    assert not session.waits_for_lease


def test_a_lease_waits_for_what_had_been_told_when_it_was_asked_for(sessions: Sessions) -> None:
    session = holder(sessions)
    sessions.apply(change(11))
    session.ask(2)
    sessions.apply(change(12))
    news = take(sessions, session)
    assert news is not None
    assert (len(news.changes), news.renewal) == (2, 0)
    assert take(sessions, session) is None
    sessions.acknowledge(session, 11)
    news = take(sessions, session)
    assert news is not None
    assert (news.renewal, news.lease_seconds) == (2, LEASE)
    assert sessions.frontier(0.0) == 11


def test_no_lease_is_given_while_the_server_has_none(sessions: Sessions) -> None:
    session = sessions.open(None, acknowledged=10)
    session.ask(1)
    assert take(sessions, session, lease=0.0) is None
    assert session.waits_for_lease


def test_a_lease_comes_after_all_changes(sessions: Sessions) -> None:
    session = sessions.open(None, acknowledged=7)
    session.ask(1)
    sessions.acknowledge(session, 10)  # whatever it meant by that
    first, second = take(sessions, session), take(sessions, session)
    assert first is not None
    assert second is not None
    assert ([it.revision for it in first.changes], first.revision, first.renewal) == ([8, 9], 9, 0)
    assert ([it.revision for it in second.changes], second.revision, second.renewal) == ([10], 10, 1)


@pytest.mark.parametrize(("acknowledged", "told"), [(5, [6, 7, 8, 9, 10]), (9, [10]), (10, [])])
def test_a_client_that_comes_back_is_told_what_it_missed(acknowledged: int, told: list[int]) -> None:
    roomy = Sessions(recent_max=5, pending_max=10)
    for revision in range(1, 11):
        roomy.apply(change(revision))
    session = roomy.open(None, acknowledged=acknowledged)
    heard: list[int] = []
    while (news := take(roomy, session)) is not None:
        assert not news.reset
        heard += [it.revision for it in news.changes]
    assert heard == told


@pytest.mark.parametrize("acknowledged", [0, 4, 11])
def test_a_client_that_missed_too_much_or_knows_more_begins_anew(sessions: Sessions, acknowledged: int) -> None:
    session = sessions.open(None, acknowledged=acknowledged)
    session.ask(1)
    news = take(sessions, session)
    assert news is not None
    assert (news.reset, news.revision, news.renewal) == (True, 10, 0)
    sessions.acknowledge(session, 11)  # on its way when it was told to begin anew
    assert not session.waits_for_lease
    sessions.acknowledge(session, 10)
    assert session.waits_for_lease


def test_a_client_is_told_of_its_tenant_alone_and_waited_for_in_no_other(sessions: Sessions) -> None:
    session = holder(sessions, tenant="acme")
    sessions.apply(change(11, tenant="other"))
    assert sessions.frontier(0.0) == 11
    assert take(sessions, session) is None
    sessions.apply(change(12))
    assert sessions.frontier(0.0) == 11


def test_a_change_that_names_no_tenant_ends_everything(sessions: Sessions) -> None:
    session = holder(sessions, tenant="acme")
    sessions.apply(change(11, tenant=""))
    news = take(sessions, session)
    assert news is not None
    assert (news.reset, news.changes, news.revision) == (True, [], 11)
    assert sessions.frontier(0.0) == 10


def test_a_client_that_does_not_listen_costs_bounded_memory_and_begins_anew(sessions: Sessions) -> None:
    session = holder(sessions)
    for revision in range(11, 1000):
        sessions.apply(change(revision))
    told: list[News] = []
    while (news := take(sessions, session)) is not None:
        told.append(news)
    assert told[0].reset
    assert not any(news.reset for news in told[1:])
    assert sum(len(news.changes) for news in told) <= 3
    assert told[-1].revision == 999


def test_a_server_that_missed_changes_has_everyone_begin_anew(sessions: Sessions) -> None:
    session = holder(sessions)
    sessions.begin_anew(50)
    news = take(sessions, session)
    assert news is not None
    assert (news.reset, news.revision) == (True, 50)
    assert sessions.frontier(0.0) == 10
    assert sessions.open(None, acknowledged=10).has_news
