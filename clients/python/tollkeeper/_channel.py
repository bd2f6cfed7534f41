"""How the client talks to its servers: balancing, health, retries, keepalive. Shared by both clients.

A server that is about to stop says NOT_SERVING first. The channel watches the health of every server and stops
choosing that one, so that a rolling restart fails no call.

Repeated by the channel: every call but streams, which ``_verify_stream`` and ``_watching`` open anew. Verifications and
mutations carry a request id (or, to settle, a reservation), and so charge and take effect once.
"""

import json
import os

import grpc

from tollkeeper._version import __version__

MESSAGE_BYTES_MAX = 4 * 1024 * 1024

_REPEATABLE = {
    "tollkeeper.v1.VerificationService": ("Verify", "BatchVerify", "CheckQuota", "Settle"),
    "tollkeeper.v1.KeyService": (
        "CreateKey",
        "ImportKeys",
        "GetKey",
        "ListKeys",
        "UpdateKey",
        "DisableKey",
        "EnableKey",
        "RotateKey",
        "EndOverlap",
        "RevokeKey",
        "ReportLeakedKeys",
        "RevokeKeys",
        "GetOwner",
        "SetOwner",
    ),
    "tollkeeper.v1.UsageService": ("GetUsage", "ListFindings"),
    "tollkeeper.v1.AuditService": ("ListAuditEvents",),
}

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method} for service, methods in _REPEATABLE.items() for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # CANCELLED: a server that goes down cancels what it could not finish in time.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # Half of the tokens gone means that the service is in trouble: then nobody repeats.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.primary_user_agent", f"tollkeeper-python/{__version__}"),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # What is larger than this buffer is never repeated; gRPC's 256 KiB are less than many imported keys.
    ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES_MAX),
    # A dead connection is noticed after 30 + 5 s, also while nothing is asked.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted server is found within half a second, not gRPC's two minutes: the next one may stop by then.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Channels of one process to the same servers share connections otherwise, and gRPC 1.78 was seen to crash while
    # several of them connect and watch the servers' health.
    ("grpc.use_local_subchannel_pool", 1),
    # Servers are inside the network; a proxy for the web must not get in between.
    ("grpc.enable_http_proxy", 0),
)


def aio_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """An asynchronous channel; encrypts nothing without ``credentials``."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def authorization(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that proves who calls. Raises ValueError for what cannot be a token, without showing it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token must be printable ASCII without spaces, and not empty")
    return (("authorization", f"Bearer {token}"),)


def server_from_env() -> tuple[str, str]:
    """Address and token from TOLLKEEPER_ADDRESS and TOLLKEEPER_TOKEN. Raises ValueError if one is not set."""
    address, token = os.environ.get("TOLLKEEPER_ADDRESS", ""), os.environ.get("TOLLKEEPER_TOKEN", "")
    if not address or not token:
        raise ValueError("set TOLLKEEPER_ADDRESS (host:port) and TOLLKEEPER_TOKEN (the API key of this caller)")
    return address, token
