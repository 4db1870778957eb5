"""Benchmarks: each is run as ``python -m benchmarks.NAME`` and ends with one JSON line."""
