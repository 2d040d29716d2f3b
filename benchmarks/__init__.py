"""Benchmarks: each runs both sides in one process; start one with `python -m benchmarks.NAME`."""
