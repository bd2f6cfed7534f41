"""How a server is told to leave."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator


class Departure:
    """The end of a serving process: when it begins, who else leaves, and whether there is time for it.

    It begins with SIGTERM or SIGINT (Ctrl-C), or by ``begin``; a second signal hurries it.
    """

    def __init__(self, *, alone: bool = False) -> None:
        """``alone`` means that others go on serving the same port, unless ``together`` is set as well."""
        self.together = asyncio.Event()
        """Set if nobody will be left on the port, so that clients have to be told before it closes."""
        self.hurry = asyncio.Event()
        """Set if what is under way is not to be waited for."""
        if not alone:
            self.together.set()
        self._task: asyncio.Task[object] | None = None
        self._signalled = False
        self._begun = False

    @contextlib.contextmanager
    def ends_this(self) -> Iterator[None]:
        """Let the departure cancel the block, which then ends as if it were done."""
        self._task = asyncio.current_task()
        assert self._task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal_received)
        try:
            yield
        except asyncio.CancelledError:
            if not self._begun:
                raise
            self._task.uncancel()

    def begin(self) -> None:
        """Leave now; only the first time counts."""
        if not self._begun and self._task is not None:
            self._begun = True
            self._task.cancel()

    def _signal_received(self) -> None:
        if self._signalled:
            self.hurry.set()
        self._signalled = True
        self.begin()
