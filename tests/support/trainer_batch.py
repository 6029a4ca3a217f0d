"""Runs the real trainer on one spec after the other in one process, so that torch is imported once.

    <engine environment's python> trainer_batch.py <spec.json> …

Prints the exit codes as JSON. A file `most_bytes` beside a spec limits the size of any file for that run, which looks
like a full disk.
"""

import importlib.util
import json
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

TRAINER = Path(__file__).resolve().parents[2] / "training" / "trainer"


@contextmanager
def room(limit: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit.read_text()) if limit.exists() else soft, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def main(paths: list[Path]) -> None:
    sys.path.insert(0, str(TRAINER))
    source = importlib.util.spec_from_file_location("trainer", TRAINER / "__main__.py")
    trainer = importlib.util.module_from_spec(source)
    source.loader.exec_module(trainer)
    codes = []
    for path in paths:
        with room(path.parent / "most_bytes"):
            codes.append(trainer.main(path))
    print(json.dumps(codes))


main([Path(path) for path in sys.argv[1:]])
