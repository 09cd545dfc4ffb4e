"""What everything else stands on: errors, paths, files, params, settings, the entry point of scripts."""
