"""The life of a key: creation, reading, revocation, and the audit of it all."""
