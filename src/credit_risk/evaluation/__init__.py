"""Measuring scores: metrics, bootstrap intervals, decision costs, leakage."""
