"""A small upstream: answers with what it received, and remembers it."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: str

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for header, value in self.headers if header.lower() == name]


class Upstream:
    """Serves until the block ends."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        """Every request so far."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Any:
                """``do_GET`` and so on: every method alike."""
                if name.startswith("do_"):
                    return self._receive
                raise AttributeError(name)

            def _receive(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length).decode(errors="replace")
                upstream.received.append(Received(self.command, self.path, self.headers.items(), body))
                self._answer(upstream.answer(upstream.received[-1]))

            def _answer(self, answer: Any) -> None:
                content = json.dumps(answer, indent=2).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.send_header("x-ratelimit-limit", "from the upstream")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing: standard error is for what goes wrong."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, received: Received) -> Any:
        """What it answers: which API this would be, and who is said to call."""
        identity = {name: value for name, value in received.headers if name.lower().startswith("x-tollkeeper-")}
        return {"served": f"{received.method} {received.path}", "identity": identity}
