"""New keys over HTTP, for those who may create them: the gateway answers such a request itself.

Envoy asks about it as about any other. What it gets is an answer for the client instead of leave to go upstream: to
Envoy's counters that is a denial, with the status that the profile gives it.
"""

import re

import orjson
from google.protobuf.duration_pb2 import Duration

from tollkeeper.v1 import key_service_pb2
from tollkeeper_server.api.convert_keys import create_key_from
from tollkeeper_server.api.handler import Authenticator
from tollkeeper_server.api.metadata import new_request_id
from tollkeeper_server.api.validate_keys import CREATE_KEY
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import InvalidArgument, PermissionDenied, Unauthenticated, Violation
from tollkeeper_server.edge.asked import Asked
from tollkeeper_server.edge.callers import tenant_of
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.credentials import find_credential
from tollkeeper_server.edge.outcome import Outcome, outcome_of
from tollkeeper_server.edge.profile import EdgeCode
from tollkeeper_server.edge.routes import KeyCreation
from tollkeeper_server.keys.service import KeyService

_SPAN = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class KeyCreator:
    """Creates keys for callers that show who they are where end clients show their API keys."""

    def __init__(self, *, keys: KeyService, authenticator: Authenticator, client_address: ClientAddress) -> None:
        self._keys = keys
        self._authenticator = authenticator
        self._client_address = client_address

    async def create(self, asked: Asked, creation: KeyCreation) -> Outcome:
        """The new key, in the tenant of the profile and owned by who creates it, user or key; or why there is none."""
        tenant_id = tenant_of(asked.profile, asked.caller)
        credential = find_credential(asked.request, asked.profile.sources)
        if credential.conflict:
            return outcome_of(asked, EdgeCode.CREDENTIALS_CONFLICT)
        if not credential.api_key:
            return _denied(asked, DecisionCode.KEY_MISSING)
        address = self._client_address.of(asked.request)
        try:
            creator = await self._authenticator.authenticate(credential.api_key, address=str(address or ""))
            creator.require(CallerPermission.KEYS_WRITE, open_to_users=True)
            request = _request(asked, creation, tenant_id=tenant_id, owner_id=creator.name)
            CREATE_KEY.check(request)
            created = await self._keys.create(creator, create_key_from(request))
        except Unauthenticated:
            return _denied(asked, DecisionCode.KEY_INVALID)
        except PermissionDenied:
            return _denied(asked, DecisionCode.PERMISSION_DENIED)
        except InvalidArgument as fault:
            return outcome_of(asked, EdgeCode.REQUEST_INVALID, problem=fault.message)
        return Outcome(code=EdgeCode.KEY_CREATED, profile=asked.profile, request_id=asked.request_id, created=created)


def _denied(asked: Asked, code: DecisionCode) -> Outcome:
    return Outcome(code=code, profile=asked.profile, request_id=asked.request_id)


def _request(asked: Asked, creation: KeyCreation, *, tenant_id: str, owner_id: str) -> key_service_pb2.CreateKeyRequest:
    """What is asked for; raises InvalidArgument if that cannot be read."""
    wishes = _wishes(asked.request.body)
    return key_service_pb2.CreateKeyRequest(
        tenant_id=tenant_id,
        owner_id=owner_id,
        name=wishes.get("name", ""),
        description=wishes.get("description", ""),
        permissions=creation.permissions,
        resources=creation.resources,
        prefix=creation.prefix,
        length=creation.length,
        ttl=_ttl(asked, creation.ttl_parameter),
        request_id=new_request_id(),
    )


def _wishes(body: bytes) -> dict[str, str]:
    """The texts of a JSON object, by name."""
    try:
        wishes = orjson.loads(body)
    except orjson.JSONDecodeError:
        wishes = None
    if not isinstance(wishes, dict):
        raise InvalidArgument([Violation("body", "must be a JSON object")])
    for name in ("name", "description"):
        if not isinstance(wishes.get(name, ""), str):
            raise InvalidArgument([Violation(name, "must be a text")])
    return wishes


def _ttl(asked: Asked, parameter: str) -> Duration | None:
    values = list(asked.request.query_values(parameter)) if parameter else []
    if not values:
        return None
    span = _SPAN.fullmatch(values[0])
    if len(values) > 1 or span is None:
        raise InvalidArgument([Violation(parameter, "must be one number followed by s, m, h, d or w, as 12h")])
    return Duration(seconds=int(span[1]) * _SECONDS[span[2]])
