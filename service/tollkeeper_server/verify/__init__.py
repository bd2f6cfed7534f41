"""The request path: one Verifier behind every way in."""
