"""The audit log: who did what, in which order. It is written by each mutation itself; this reads it."""
