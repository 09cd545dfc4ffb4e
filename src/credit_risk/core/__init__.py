"""Foundations: contract classes, feature engine, errors, paths, files, params, settings, entry point of scripts."""
