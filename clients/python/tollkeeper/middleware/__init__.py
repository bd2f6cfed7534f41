"""Checks the API key of every request before an application sees it.

``tollkeeper.middleware.asgi`` is for any ASGI application, ``fastapi`` for routes of FastAPI, ``grpc`` for servers of
``grpc.aio``. What they have in common is here: what a request :class:`Needs`, its
:func:`current_decision`, and how to :func:`settle` what was held for it.

A request that could not be decided is never let through. No API key is in any answer, log or error.
"""

from tollkeeper.middleware._admission import Needs, current_decision, settle

__all__ = ["Needs", "current_decision", "settle"]
