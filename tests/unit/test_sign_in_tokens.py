"""Which tokens prove a signed-in user, and what is told of those that do not."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tollkeeper_server.core.caller import Issuer
from tollkeeper_server.core.errors import PermissionDenied, TollkeeperError, Unauthenticated, Unavailable
from tollkeeper_server.verify.sign_in import SignIn, is_sign_in_token
from tollkeeper_server.verify.signing_keys import RENEW_SECONDS, RETRY_SECONDS, STALE_SECONDS_MAX, SigningKeys

ISSUER = Issuer(
    issuer="https://login.example",
    audience="tollkeeper",
    algorithms=("RS256", "ES256", "EdDSA"),
    tenant_id="acme",
    roles_claim="roles",
)
RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"RS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}
USER = "user-7"
LIFETIME_SECONDS = 86_400
"""Tokens that are parameters of tests are made when tests are collected, long before they are shown."""


def public(key: Any, kid: str, **fields: Any) -> dict[str, Any]:
    kind = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm: Any = next((each for private, each in kind.items() if isinstance(key, private)), OKPAlgorithm)
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **fields}


KEY_SET = {"keys": [public(key, algorithm) for algorithm, key in PRIVATE.items()]}


def token(algorithm: str = "RS256", *, key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good but for what is said otherwise; None leaves a claim out."""
    content: dict[str, Any] = {
        "iss": ISSUER.issuer,
        "aud": ISSUER.audience,
        "sub": USER,
        "exp": int(time.time()) + LIFETIME_SECONDS,
        "roles": ["self"],
        **claims,
    }
    given = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(
        given, key or PRIVATE[algorithm], algorithm=algorithm, headers={"kid": algorithm, **(headers or {})}
    )


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def unsigned(alg: str) -> str:
    _, payload, _ = token().split(".")
    return f"{encoded({'alg': alg, 'kid': 'RS256'})}.{payload}."


def signed_with_the_public_key() -> str:
    """The oldest trick: what everybody may know, taken for a shared secret."""
    _, payload, _ = token().split(".")
    secret = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{encoded({'alg': 'HS256', 'kid': 'RS256'})}.{payload}"
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key_set(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(KEY_SET))
    return path


@pytest.fixture
def sign_in(key_set: Path, clock: Clock) -> SignIn:
    return SignIn(ISSUER, keys=SigningKeys(str(key_set), clock=clock))


async def fault(sign_in: SignIn, shown: str) -> TollkeeperError:
    with pytest.raises(TollkeeperError) as caught:
        await sign_in.authenticate(shown, address="192.0.2.1")
    told = f"{caught.value!r} {caught.value.metadata}"
    assert not any(part and part in told for part in shown.split(".")), "a token is never told"
    assert USER not in told
    return caught.value


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_token_signed_by_the_issuer_proves_its_user(sign_in: SignIn, algorithm: str) -> None:
    caller = await sign_in.authenticate(token(algorithm), address="192.0.2.1")
    assert (caller.subject, caller.name, caller.key_id) == (USER, USER, "")
    assert (caller.tenant_id, caller.permissions, caller.address) == ("acme", (), "192.0.2.1")
    assert not caller.is_root


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (token(exp=int(time.time()) - 60), "CALLER_TOKEN_EXPIRED"),
        (token(nbf=int(time.time()) + LIFETIME_SECONDS), "CALLER_TOKEN_NOT_YET_VALID"),
        (token(iat=int(time.time()) + LIFETIME_SECONDS), "CALLER_TOKEN_NOT_YET_VALID"),
        (token(aud="another"), "CALLER_TOKEN_AUDIENCE"),
        (token(iss="https://another.example"), "CALLER_TOKEN_ISSUER"),
        (token(iss=ISSUER.issuer + "/"), "CALLER_TOKEN_ISSUER"),
        (token(exp=None), "CALLER_TOKEN_INCOMPLETE"),
        (token(iss=None), "CALLER_TOKEN_INCOMPLETE"),
        (token(aud=None), "CALLER_TOKEN_INCOMPLETE"),
        (token(sub=None), "CALLER_TOKEN_INCOMPLETE"),
        (token(key=OTHER_RSA_KEY), "CALLER_TOKEN_SIGNATURE"),
        (token()[:-8] + "AAAAAAAA", "CALLER_TOKEN_SIGNATURE"),
        (token(headers={"kid": "unknown"}), "CALLER_TOKEN_KEY_UNKNOWN"),
        (token(headers={"kid": "ES256"}), "CALLER_TOKEN_ALGORITHM"),
        (token("ES256", headers={"kid": "RS256"}), "CALLER_TOKEN_ALGORITHM"),
        (jwt.encode({"sub": USER}, RSA_KEY, algorithm="RS512", headers={"kid": "RS256"}), "CALLER_TOKEN_ALGORITHM"),
        *((unsigned(alg), "CALLER_TOKEN_ALGORITHM") for alg in ("none", "None", "NONE", "")),
        (signed_with_the_public_key(), "CALLER_TOKEN_ALGORITHM"),
        (f"{encoded({'alg': 'RS256', 'kid': 'RS256'})}.!.!", "CALLER_TOKEN_MALFORMED"),
        (f"{encoded({'alg': 'RS256', 'kid': ['RS256']})}.e30.e30", "CALLER_TOKEN_MALFORMED"),
        (f"{encoded({'alg': ['RS256'], 'kid': 'RS256'})}.e30.e30", "CALLER_TOKEN_ALGORITHM"),
        (token(sub="two words"), "CALLER_TOKEN_SUBJECT"),
        (token(sub=""), "CALLER_TOKEN_SUBJECT"),
        (token(sub="u" * 129), "CALLER_TOKEN_SUBJECT"),
        (token(sub="key_0123456789abcdefABCDEF"), "CALLER_TOKEN_SUBJECT"),
    ],
)
async def test_any_other_token_proves_nobody_and_it_is_told_why(sign_in: SignIn, shown: str, reason: str) -> None:
    assert is_sign_in_token(shown)
    denied = await fault(sign_in, shown)
    assert isinstance(denied, Unauthenticated)
    assert denied.reason == reason


@pytest.mark.parametrize("roles", [None, [], ["admin"], "selfish", {"self": True}, 7])
async def test_a_user_without_the_role_may_do_nothing(sign_in: SignIn, roles: Any) -> None:
    denied = await fault(sign_in, token(roles=roles))
    assert isinstance(denied, PermissionDenied)
    assert denied.reason == "CALLER_ROLE_MISSING"


@pytest.mark.parametrize("roles", [["other", "self"], "other self", ["self", 7, None]])
async def test_the_role_is_found_among_others(sign_in: SignIn, roles: Any) -> None:
    assert (await sign_in.authenticate(token(roles=roles), address="")).subject == USER


def test_no_api_key_has_the_shape_of_a_token() -> None:
    for other in ("", "tk_abc", "a.b.c", "..", "e30.e30.e30", "not.a.token", token().rpartition(".")[0], "x" * 4096):
        assert not is_sign_in_token(other)
    assert not is_sign_in_token(base64.b64encode(b"[" * 3000).decode() + ".a.b")


async def test_a_key_set_with_one_key_needs_no_name_for_it(key_set: Path, clock: Clock) -> None:
    key_set.write_text(json.dumps({"keys": [public(RSA_KEY, "only"), {"kty": "oct", "k": "AAAA", "kid": "RS256"}]}))
    sign_in = SignIn(ISSUER, keys=SigningKeys(str(key_set), clock=clock))
    _, payload, _ = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    nameless = jwt.encode(claims, RSA_KEY, algorithm="RS256")
    assert (await sign_in.authenticate(nameless, address="")).subject == USER
    denied = await fault(sign_in, token())
    assert denied.reason == "CALLER_TOKEN_KEY_UNKNOWN", "a shared secret is no key of an issuer"


async def test_the_algorithm_that_a_key_is_for_is_the_only_one(key_set: Path, clock: Clock) -> None:
    for fields, accepted in (({"alg": "RS256"}, True), ({"alg": "PS256"}, False), ({"use": "enc"}, False)):
        key_set.write_text(json.dumps({"keys": [public(RSA_KEY, "RS256", **fields), public(EC_KEY, "ES256")]}))
        sign_in = SignIn(ISSUER, keys=SigningKeys(str(key_set), clock=clock))
        if accepted:
            await sign_in.authenticate(token(), address="")
        else:
            assert isinstance(await fault(sign_in, token()), Unauthenticated)


class KeySetServer:
    """An issuer's key set behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.document: Any = KEY_SET
        self.status = 200
        self.reads = 0


@pytest.fixture
def issuer() -> Iterator[KeySetServer]:
    with key_set_server() as server:
        yield server


@contextmanager
def key_set_server() -> Iterator[KeySetServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.reads += 1
            self.send_response(state.status)
            self.end_headers()
            self.wfile.write(json.dumps(state.document).encode())

        def log_message(self, *_: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    state = KeySetServer(f"http://127.0.0.1:{http.server_port}/jwks.json")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


async def test_a_key_set_is_read_once_for_many_tokens(issuer: KeySetServer, clock: Clock) -> None:
    sign_in = SignIn(ISSUER, keys=SigningKeys(issuer.url, clock=clock))
    for _ in range(10):
        await sign_in.authenticate(token(), address="")
    assert issuer.reads == 1


async def test_a_new_key_is_found_and_a_withdrawn_one_forgotten(issuer: KeySetServer, clock: Clock) -> None:
    sign_in = SignIn(ISSUER, keys=SigningKeys(issuer.url, clock=clock))
    await sign_in.authenticate(token(), address="")
    issuer.document = {"keys": [public(OTHER_RSA_KEY, "new")]}
    clock.now += RETRY_SECONDS
    new = token(key=OTHER_RSA_KEY, headers={"kid": "new"})
    assert (await sign_in.authenticate(new, address="")).subject == USER
    assert (await fault(sign_in, token())).reason == "CALLER_TOKEN_KEY_UNKNOWN"

    issuer.document = KEY_SET
    clock.now += RENEW_SECONDS
    assert (await fault(sign_in, new)).reason == "CALLER_TOKEN_KEY_UNKNOWN"


async def test_made_up_key_names_cost_the_issuer_one_read(issuer: KeySetServer, clock: Clock) -> None:
    sign_in = SignIn(ISSUER, keys=SigningKeys(issuer.url, clock=clock))
    for number in range(20):
        assert (await fault(sign_in, token(headers={"kid": f"made-up-{number}"}))).reason == "CALLER_TOKEN_KEY_UNKNOWN"
    assert issuer.reads == 1


@pytest.mark.parametrize("document", [{}, [], {"keys": []}, {"keys": "x"}, {"keys": [{"kty": "oct", "k": "AAAA"}]}])
async def test_what_is_no_key_set_makes_users_unavailable(issuer: KeySetServer, clock: Clock, document: Any) -> None:
    issuer.document = document
    sign_in = SignIn(ISSUER, keys=SigningKeys(issuer.url, clock=clock))
    assert isinstance(await fault(sign_in, token()), Unavailable)


async def test_while_the_issuer_is_away_known_keys_go_on_for_an_hour(issuer: KeySetServer, clock: Clock) -> None:
    issuer.status = 503
    sign_in = SignIn(ISSUER, keys=SigningKeys(issuer.url, clock=clock))
    assert isinstance(await fault(sign_in, token()), Unavailable)
    assert isinstance(await fault(sign_in, token()), Unavailable), "also before it is asked again"

    issuer.status = 200
    clock.now += RETRY_SECONDS
    await sign_in.authenticate(token(), address="")
    issuer.status = 503
    clock.now += RENEW_SECONDS
    await sign_in.authenticate(token(), address="")
    denied = await fault(sign_in, token(headers={"kid": "unknown"}))
    assert isinstance(denied, Unavailable), "it cannot be told whether the issuer has this key"
    clock.now += STALE_SECONDS_MAX
    assert isinstance(await fault(sign_in, token()), Unavailable)


async def test_an_issuer_that_nobody_answers_for_is_unavailable(clock: Clock, tmp_path: Path) -> None:
    for location in ("http://127.0.0.1:1/jwks.json", str(tmp_path / "nowhere.json")):
        sign_in = SignIn(ISSUER, keys=SigningKeys(location, clock=clock))
        denied = await fault(sign_in, token())
        assert isinstance(denied, Unavailable)
        assert denied.reason == "SIGN_IN_UNAVAILABLE"
