"""Benchmarks: what the server costs, measured from the operating system beside a bare echo in the same run."""
