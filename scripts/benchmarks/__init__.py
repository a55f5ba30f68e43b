"""What clipping, logging and starting cost; `scripts/benchmark.py` runs these."""
