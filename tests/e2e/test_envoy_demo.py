"""`make demo` prints requests that run as they stand, and answers them as the documents say."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.e2e.server_process import STOP_SECONDS, environment
from tests.gateway.envoy import ROOT
from tests.gateway.http import Answer, ask


class Request(NamedTuple):
    """A `curl` command."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: str

    def send(self) -> Answer:
        url = urlsplit(self.url)
        assert url.port is not None
        path = f"{url.path}?{url.query}" if url.query else url.path
        return ask(url.port, path, host=url.netloc, method=self.method, headers=self.headers, body=self.body.encode())


def read_curl(command: str) -> Request:
    words = iter(shlex.split(command)[1:])
    method, url, headers, body = "", "", [], ""
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers.append((name, value))
        elif word in ("-d", "--data"):
            body = next(words)
        elif word != "-i":
            url = word
    return Request(method or ("POST" if body else "GET"), url, headers, body)


@pytest.fixture(scope="module")
def demo() -> Iterator[list[Request]]:
    """The requests that the demo prints."""
    command = [sys.executable, "-m", "tests.gateway.demo", "--port", "0", "--management-port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = ""
    while "Ctrl-C" not in printed:
        line = process.stdout.readline()
        assert line, f"the demo ended: {printed}"
        printed += line
    lines = printed.replace("\\\n", "").splitlines()
    try:
        yield [read_curl(line) for line in lines if line.startswith("curl ")]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0


def test_every_request_that_the_demo_prints_is_answered_as_documented(demo: list[Request]) -> None:
    answers = [request.send() for request in demo]
    assert [answer.status for answer in answers] == [200, 200, 401, 200, 403, 200, 200, 200, 401, 200]
    assert answers[3].header("X-RateLimit-Daily-Remaining") == "999"
    assert answers[4].json == {"error": "Your API key does not have access to this product"}
    login, created = answers[5].json, answers[6].json
    assert login["result"]["jwt"].count(".") == 2
    assert created["result"]["_source"]["userId"] == login["result"]["_id"]
    assert (created["action"], created["result"]["_source"]["ttl"]) == ("createApiKey", 3_600_000)
    assert answers[8].json["error"]["code"] == "invalid_api_key"
    assert len(answers[9].json["keys"]) == 1
