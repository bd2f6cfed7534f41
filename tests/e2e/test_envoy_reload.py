"""A profile is edited while requests go on: none of them is dropped, and a bad edit changes nothing."""

import threading
import time
from collections.abc import Callable

from tests.gateway.stack import PublicApis

UNKNOWN = ("api-key", "tk_" + "x" * 40)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.02)


def test_an_edit_comes_into_force_without_dropping_a_request(apis: PublicApis) -> None:
    file = apis.profiles / "ilumiera.yaml"
    original = file.read_text()
    over = threading.Event()
    bodies: list[bytes] = []

    def keep_asking() -> None:
        while not over.is_set():
            answer = apis.ask("ilumiera", "/source/a", headers=[UNKNOWN])
            assert answer.status == 401
            bodies.append(answer.body)

    def answered(text: str) -> bool:
        return bool(bodies) and bodies[-1] == f'{{\n"error": "{text}"\n}}'.encode()

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        until(lambda: answered("Invalid API key"))
        file.write_text(original.replace("Invalid API key", "No such key"))
        until(lambda: answered("No such key"))
        refused = len(apis.server.events("profiles_refused"))
        file.write_text(original.replace("status: 401", "status: yes"))
        until(lambda: len(apis.server.events("profiles_refused")) > refused)
        assert answered("No such key")
        file.write_text(original)
        until(lambda: answered("Invalid API key"))
    finally:
        file.write_text(original)
        over.set()
        thread.join()
    assert set(bodies) == {b'{\n"error": "Invalid API key"\n}', b'{\n"error": "No such key"\n}'}
