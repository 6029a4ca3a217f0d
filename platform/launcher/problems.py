"""The one way in which the launcher says no."""


class CannotStart(Exception):
    """Something that a person must mend first. The message is one line: what is wrong and what to do."""
