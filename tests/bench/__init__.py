"""Benchmarks: never run as timed tests. `python -m tests.bench [case …]` prints medians of five beside a fixed calibration loop."""
