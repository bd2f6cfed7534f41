"""Why the server, or a command of it, cannot do its work."""


class StartupError(Exception):
    """An expected failure. The text is one line for people: what is wrong and, where that helps, what to do.

    It never carries a secret.
    """
