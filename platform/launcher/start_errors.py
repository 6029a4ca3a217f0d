"""The launcher's error."""


class CannotStart(Exception):
    """Something that the user must fix first. The message is one line: what is wrong and what to do."""
