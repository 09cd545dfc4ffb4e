"""Metrics, bootstrap intervals, decision costs and the leakage check."""
