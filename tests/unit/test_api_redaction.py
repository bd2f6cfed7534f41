"""No secret is left in what is logged, however it gets there: by contract, by name, or by shape."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tollkeeper.v1 import (
    audit_service_pb2,
    key_pb2,
    key_service_pb2,
    limit_pb2,
    usage_service_pb2,
    verification_service_pb2,
)
from tollkeeper_server.api.redaction import REDACTED, mask, redact, redacted
from tollkeeper_server.core.credential import Keyring, default_length, length_bounds
from tollkeeper_server.keys.ids import new_key_id

FILES = (audit_service_pb2, key_pb2, key_service_pb2, limit_pb2, usage_service_pb2, verification_service_pb2)
CANARY = "canary"
DEPTH_MAX = 4


def messages() -> list[Descriptor]:
    return [message for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()]


def is_secret(field: Any) -> bool:
    return bool(field.GetOptions().debug_redact)


def fill(message: Message, *, depth: int = DEPTH_MAX) -> bool:
    """Put the canary into every secret field, and something else into every other; tells whether there is a secret."""
    found = False
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
                setattr(message, field.name, CANARY if is_secret(field) else "plain")
                found |= is_secret(field)
        elif depth and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is None:
                getattr(message, field.name)["plain"] = 1
        elif depth:
            inner = getattr(message, field.name)
            found |= fill(inner.add() if field.is_repeated else inner, depth=depth - 1)
            if not field.is_repeated:
                inner.SetInParent()
    return found


def secret_fields() -> Iterator[tuple[Descriptor, FieldDescriptor]]:
    for message in messages():
        yield from ((message, field) for field in message.fields if is_secret(field))


def test_the_contract_marks_the_secrets_that_are_known_to_be_in_it() -> None:
    marked = {f"{message.name}.{field.name}" for message, field in secret_fields()}
    assert {
        "VerifyRequest.api_key",
        "CheckQuotaRequest.api_key",
        "CreateKeyResponse.api_key",
        "RotateKeyResponse.api_key",
        "RevokeKeyRequest.api_key",
        "ImportKey.raw_api_key",
        "ImportKey.sha256_hex",
    } <= marked


@pytest.mark.parametrize("descriptor", messages(), ids=lambda descriptor: descriptor.name)
def test_every_secret_field_of_every_message_is_redacted_at_any_depth(descriptor: Descriptor) -> None:
    message = GetMessageClass(descriptor)()
    has_secret = fill(message)
    rendered = str(redacted(message))
    assert CANARY not in rendered
    assert (REDACTED in rendered) == (has_secret and CANARY in str(message))


@pytest.mark.parametrize(
    ("descriptor", "field"), list(secret_fields()), ids=lambda descriptor: str(getattr(descriptor, "name", ""))
)
def test_every_secret_field_is_redacted_by_itself(descriptor: Descriptor, field: FieldDescriptor) -> None:
    message = GetMessageClass(descriptor)()
    setattr(message, field.name, CANARY)
    assert redacted(message) == {field.name: REDACTED}


def test_what_is_not_secret_stays_readable() -> None:
    request = verification_service_pb2.BatchVerifyRequest(
        requests=[
            verification_service_pb2.VerifyRequest(
                api_key=CANARY, resource="api", required_permissions=["read"], charges={"tokens": 5}
            )
        ]
    )
    assert redacted(request) == {
        "requests": [
            {"api_key": REDACTED, "resource": "api", "required_permissions": ["read"], "charges": {"tokens": 5}}
        ]
    }


@pytest.mark.parametrize(
    "value",
    [
        {"api_key": CANARY},
        {"outer": {"Authorization": CANARY}},
        [{"token": CANARY}],
        (("user-agent", "x"), ("authorization", f"Bearer {CANARY}")),
        {"metadata": [("authorization", CANARY)]},
        {"request": verification_service_pb2.VerifyRequest(api_key=CANARY)},
        {"requests": (verification_service_pb2.VerifyRequest(api_key=CANARY),)},
    ],
)
def test_a_secret_is_known_by_its_name_at_any_depth(value: Any) -> None:
    assert CANARY not in str(redacted(value))
    assert CANARY not in str(redact(None, "", {"event": "x", "field": value}))


@pytest.mark.parametrize(
    "name", ["api_key", "authorization", "password", "secret", "token", "postgres_url", "redis_url"]
)
def test_a_secret_is_known_by_the_name_of_its_field(name: str) -> None:
    assert redact(None, "", {"event": "x", name: CANARY}) == {"event": "x", name: REDACTED}


@pytest.mark.parametrize("prefix", ["tk", "ila", "a-b_c"])
@pytest.mark.parametrize("shortest", [True, False])
def test_an_api_key_of_ours_is_known_by_its_shape_anywhere_in_a_line(prefix: str, shortest: bool) -> None:
    keyring = Keyring(peppers={1: bytes(32)}, tag_keys={1: bytes(32)})
    length = length_bounds(prefix)[0] if shortest else default_length(prefix)
    for number in range(50):
        api_key = keyring.mint(prefix=prefix, length=length, seed=keyring.new_seed(bytes(31) + bytes([number])))
        line = f'{{"error": "no such key {api_key}"}}'
        assert mask(line.encode()).decode() == f'{{"error": "no such key {prefix}_{REDACTED}"}}'


def test_identifiers_are_not_taken_for_api_keys() -> None:
    line = f"{new_key_id(datetime.now(UTC))} {'0123456789abcdef' * 4} tk_…7Gq2 call_failed"
    assert mask(line.encode()).decode() == line
