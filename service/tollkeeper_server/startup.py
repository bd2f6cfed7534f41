"""Starting: why the server, or a command of it, cannot do its work, and what a server does once it can."""

import gc


class StartupError(Exception):
    """An expected failure. The text is one line for people: what is wrong and, where that helps, what to do.

    It never carries a secret.
    """


def spare_the_collector() -> None:
    """Leave what was made so far, nearly all of which stays, out of garbage collections.

    A full one would look at all of it again, and hold up every call for a twentieth of a second.
    """
    gc.collect()
    gc.freeze()
