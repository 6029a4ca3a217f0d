"""Describes a supervised process: its command, its readiness check and its stop signal."""

import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any


def always_ready() -> bool:
    return True


@dataclass(frozen=True)
class Service:
    """`ready` is polled every 0.1 s and must return within a second. `options` go to `subprocess.Popen`.

    Lines that match `noise` are not shown.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool] = always_ready
    ready_timeout: float = 60
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 15
    noise: re.Pattern | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@cache
def parent_death_prefix(number: signal.Signals) -> tuple[str, ...]:
    """Prefix of a command that makes the kernel signal it when its parent dies; empty without setpriv."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--") if setpriv else ()
