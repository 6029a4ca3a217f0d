"""Runs the training that a spec describes; the exit code says how it ended (docs/training.md)."""

import os
import shutil
import sys
import traceback
from contextlib import suppress
from pathlib import Path

# Set before the imports that read them: no network, no telemetry, no threads except torch's.
os.environ.update({
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false", "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
})  # fmt: skip

import spec as specs
from checkpoints import DRAFT
from failures import TrainingRefused, explain
from progress import ProgressJournal
from stopping import Stop

DONE, FAILED, REFUSED = 0, 1, 2


def main(path: Path) -> int:
    folder, spec = path.parent, specs.load(path)
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    sys.stdout.reconfigure(line_buffering=True)
    journal = ProgressJournal(folder / "progress.jsonl")
    stop = Stop(journal)
    try:
        import train  # takes seconds, in which a stop must already work

        train.run(spec, folder, journal, stop)
    except Exception as error:
        traceback.print_exc()
        refusal = explain(error)
        if refusal is None:
            return FAILED
        report_refusal(refusal, folder, journal, stop.step)
        return REFUSED
    return DONE


def report_refusal(refusal: TrainingRefused, folder: Path, journal: ProgressJournal, step: int) -> None:
    """Removes half-written files first, so that a full disk has room for the event."""
    for draft in (folder / "checkpoints" / DRAFT, folder / DRAFT):
        shutil.rmtree(draft, ignore_errors=True)
    with suppress(OSError):
        journal.write_event("error", step, reason=refusal.reason, **({"field": refusal.field} if refusal.field else {}))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
