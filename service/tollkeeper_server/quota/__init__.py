"""Holding keys to their limits."""
