"""Benchmarks of clipping, logging and start-up; `evidence/benchmark.py` runs them."""
