"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(check: Callable[[], Value], seconds: float = 60, pause: float = 0.05) -> Value:
    """The first true value of `check`; fails the test if there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < deadline, f"It did not come true within {seconds} s."
        time.sleep(pause)
    return value
