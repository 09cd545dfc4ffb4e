"""Batch scoring: files of any size in, Parquet out. Optional: delete it with `6.production/score.py`."""
