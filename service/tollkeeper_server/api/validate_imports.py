"""What is said of keys that come from elsewhere."""

from tollkeeper.v1 import key_service_pb2
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import Problems, Rules, anything, between, each, exactly_one, nested
from tollkeeper_server.api.validate_keys import CREATE_KEY

PEPPER_VERSION_MAX = 65_535


def _left_empty(request: key_service_pb2.CreateKeyRequest) -> Problems:
    """What an imported key has not, or what is said once for all of them."""
    named = ("prefix", "length", "request_id", "tenant_id")
    return [(f"key.{name}", "must be empty") for name in named if getattr(request, name)]


def _imported_key(item: key_service_pb2.ImportKey) -> Problems:
    return [
        *((f"key.{path}", allowed) for path, allowed in CREATE_KEY.problems(item.key)),
        *_left_empty(item.key),
    ]


HMAC_DIGEST = Rules(
    key_service_pb2.HmacDigest, {"hex": fields.hex_digest(64), "pepper_version": between(1, PEPPER_VERSION_MAX)}
)

IMPORT_KEY = Rules(
    key_service_pb2.ImportKey,
    {
        "key": anything,  # looked at below, also where it is left out
        "raw_api_key": fields.raw_api_key,
        "sha256_hex": fields.hex_digest(64),
        "sha256_base64url": fields.sha256_base64url,
        "sha512_hex": fields.hex_digest(128),
        "hmac_sha256": nested(HMAC_DIGEST),
    },
    across=[
        _imported_key,
        exactly_one("credential", "raw_api_key, sha256_hex, sha256_base64url, sha512_hex and hmac_sha256"),
    ],
)

IMPORT_KEYS = Rules(
    key_service_pb2.ImportKeysRequest,
    {
        # What is wrong with one key is the answer to that one alone.
        "keys": each(anything, at_least=1, at_most=fields.BATCH_MAX),
        "request_id": fields.request_id,
        "tenant_id": fields.tenant_id,
    },
)
