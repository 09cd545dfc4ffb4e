"""Comparing and tuning models."""
