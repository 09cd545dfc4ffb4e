"""Comparing and tuning models, for the scripts of 3.experiments. Optional: no stage uses it."""
