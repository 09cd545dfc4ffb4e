"""Foundations of the stages: contract classes, feature engine, errors, paths, files, params, entry point of scripts."""
