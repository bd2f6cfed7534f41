# Generated from ``_async`` by ``scripts/unasync.py``; do not edit.
"""The synchronous client, a module for each service."""
