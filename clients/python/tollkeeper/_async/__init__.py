"""The asynchronous client, a module for each service. ``_sync`` is made from it by ``scripts/unasync.py``."""
