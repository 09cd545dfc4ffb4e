"""Expected errors: their text is one sentence that says what is wrong and what to do."""


class ProjectError(Exception):
    """An expected failure: shown as one sentence, without a traceback, with a non-zero exit code."""
