"""Checks the API key of every request before an application sees it.

``tollkeeper.middleware.asgi`` is for any ASGI application, ``fastapi`` for routes of FastAPI, ``grpc`` for servers of
``grpc.aio``. What they have in common is here: what a request :class:`Needs`, and the :func:`current_decision`.

A request that could not be decided is never let through. No API key is in any answer, log or error.
"""

from tollkeeper.middleware._admission import Needs, current_decision

__all__ = ["Needs", "current_decision"]
