"""Measurements of the product and of what it is compared with; `manage.py bench` runs them.

Each module has COLUMNS (figure → title) and `run(seconds, rounds, report)`, whose result has `scenarios`
(scenario → row → figures) and `ratios`.
"""


class CannotMeasure(Exception):
    """Something that the measurement needs is missing; the message says what."""
