"""The project and its surroundings, which no training stage depends on: settings, host, renaming."""
