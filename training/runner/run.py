"""What this agent knows of one run of a job besides its row; an agent that begins anew learns it from the files."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from training.runner import checkpoints
from training.runner.progress_reader import Event, Reader


@dataclass
class Run:
    """`generation` is the run that exists, or, of a job that waits for its launch, the one that is to be launched."""

    job_id: str
    generation: int
    folder: Path
    reader: Reader = field(init=False)
    has_spoken: bool = False
    finished: bool = False
    error: str = ""  # why it ended, in the trainer's words
    prepared: Future | None = None
    asked_at: float | None = None  # when its end was asked for, of the monotonic clock
    _signing: list[Future] = field(default_factory=list)

    def __post_init__(self):
        self.reader = Reader(self.folder / "progress.jsonl")

    @property
    def all_read(self) -> bool:
        return self.reader.all_read and not self._signing

    def read(self, executor: Executor, known: list[dict]) -> list[Event]:
        """What is new. Checkpoints that the row does not know yet are checked and signed meanwhile."""
        events = self.reader.read()
        self.has_spoken |= bool(events)
        for event in events:
            self.finished |= event.name == "done"
            if event.name == "error":
                self.error = event.text("reason") or "The trainer gave no reason."
        steps = {each["step"] for each in known if each["generation"] == self.generation}
        made = [event for event in events if event.name == "checkpoint" and event.step not in steps]
        for event in made[-checkpoints.KEPT :]:
            work = checkpoints.signed, self.job_id, self.generation, self.folder, event.text("folder")
            self._signing.append(executor.submit(*work))
        return events

    def signed(self) -> list[dict]:
        """Checkpoints that have proved whole since the last look, in the order in which they were made."""
        found = []
        while self._signing and self._signing[0].done():
            if checkpoint := self._signing.pop(0).result():
                found.append(checkpoint)
        return found
