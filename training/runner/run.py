"""What this agent knows about one run of a job apart from its row; a restarted agent reads it from the files again."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from training.runner import checkpoints
from training.runner.progress_reader import ProgressReader, TrainerEvent


@dataclass
class TrainingRun:
    """`generation` is that of the existing run, or of the next one while the job waits for its launch."""

    job_id: str
    generation: int
    folder: Path
    reader: ProgressReader = field(init=False)
    has_events: bool = False
    finished: bool = False
    error: str = ""  # the reason that the trainer reported
    prepared: Future[int | None] | None = None
    _signing: list[Future[dict | None]] = field(default_factory=list)

    def __post_init__(self):
        self.reader = ProgressReader(self.folder / "progress.jsonl")

    @property
    def all_read(self) -> bool:
        return self.reader.all_read and not self._signing

    def read(self, executor: Executor, known: list[dict]) -> list[TrainerEvent]:
        """The new events. Checkpoints that are not in the row yet are then checked and signed in a thread."""
        events = self.reader.read()
        self.has_events |= bool(events)
        for event in events:
            self.finished |= event.name == "done"
            if event.name == "error":
                self.error = event.text("reason") or "The trainer gave no reason."
        steps = {entry["step"] for entry in known if entry["generation"] == self.generation}
        made = [event for event in events if event.name == "checkpoint" and event.step not in steps]
        for event in made[-checkpoints.MAX_KEPT :]:
            name = event.text("folder")
            self._signing.append(executor.submit(checkpoints.sign, self.job_id, self.generation, self.folder, name))
        return events

    def collect_signed(self) -> list[dict]:
        """Checkpoints that were signed since the last call, in the order in which they were made."""
        found = []
        while self._signing and self._signing[0].done():
            if checkpoint := self._signing.pop(0).result():
                found.append(checkpoint)
        return found
