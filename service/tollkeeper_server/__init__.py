"""Tollkeeper's server: issues API keys, verifies every request, holds every limit."""
