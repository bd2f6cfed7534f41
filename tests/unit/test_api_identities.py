"""What is told of a key is made once, and never of another key or of the key as it was."""

from dataclasses import replace
from datetime import UTC, datetime

from tollkeeper_server.api.convert_keys import identity_message
from tollkeeper_server.api.verification import IDENTITIES_MAX, Identities
from tollkeeper_server.core.key import Key

NOW = datetime(2026, 11, 20, tzinfo=UTC)
KEY = Key(key_id="key_1", tenant_id="acme", metadata={"plan": "free"}, created_at=NOW, updated_at=NOW)


def test_a_key_in_memory_is_told_without_making_its_message_again() -> None:
    identities = Identities()
    assert identities.of(KEY) is identities.of(KEY)
    assert identities.of(KEY) == identity_message(KEY)


def test_a_key_that_changed_is_told_as_it_is_now() -> None:
    identities = Identities()
    identities.of(KEY)
    assert identities.of(replace(KEY, metadata={"plan": "pro"})).metadata["plan"] == "pro"


def test_keys_that_come_and_go_are_never_taken_for_each_other_and_never_fill_the_memory() -> None:
    identities = Identities()
    for number in range(3 * IDENTITIES_MAX):
        assert identities.of(replace(KEY, key_id=f"key_{number}")).key_id == f"key_{number}"
    assert len(identities._made) == IDENTITIES_MAX
