"""Runs the programs that install an engine, line by line, so that one can tell how far they are."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OnLine = Callable[[str], None]


class CommandFailed(Exception):
    """The program ended with an error; `said` are its lines."""

    def __init__(self, said: list[str]):
        super().__init__("\n".join(said[-10:]))
        self.said = said


class Runner:
    """Starts programs that hold on to a lock, so that it stays closed if this process is killed before them."""

    def __init__(self, held_file: int | None = None):
        self._inherited = () if held_file is None else (held_file,)

    def run(self, command: Sequence[str | Path], on_line: OnLine = lambda line: None) -> None:
        """Raises CommandFailed, OSError."""
        said = []
        with self._started(command) as process:
            for line in process.stdout:
                said.append(line.strip())
                on_line(said[-1])
        if process.returncode:
            raise CommandFailed(said)

    @contextmanager
    def _started(self, command: Sequence[str | Path]) -> Iterator[subprocess.Popen]:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            pass_fds=self._inherited,
        )  # fmt: skip
        with process:
            try:
                yield process
            except BaseException:  # also Ctrl-C: nobody is left who would read what it writes
                process.terminate()
                raise
