"""What clipping, logging and starting cost; `evidence/benchmark.py` runs these."""
