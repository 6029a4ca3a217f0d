"""Fakes of external programs, for faults that a real engine does not produce on demand."""

import json
import shlex
import sys
from pathlib import Path

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def install_engine(path: Path, **switches) -> Path:
    """Write an executable with vLLM's command line that behaves as its `Switches` say."""
    command = shlex.join([sys.executable, "-S", str(FAKE_ENGINE), "--switches", json.dumps(switches)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path
