"""Runs pipeline, registration and gates for `main.py`: the steps, their log, and what the terminal shows."""
