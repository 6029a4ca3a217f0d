"""Runs the programs that install an engine, and passes on each line of output, so that progress can be shown."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_ERROR_LINES = 10  # of a program's output, in the message for a person
LineCallback = Callable[[str], None]


class CommandFailed(Exception):
    """The program ended with an error; `output` is what it wrote, line by line."""

    def __init__(self, output: list[str]):
        super().__init__("\n".join(output[-MAX_ERROR_LINES:]))
        self.output = output


class CommandRunner:
    """Runs programs that inherit a file lock, so that it stays locked if this process is killed before them."""

    def __init__(self, held_file: int | None = None):
        self._inherited = () if held_file is None else (held_file,)

    def run(self, command: Sequence[str | Path], on_line: LineCallback = lambda line: None) -> None:
        """Raises CommandFailed, OSError."""
        output = []
        with self._start(command) as process:
            assert process.stdout, "it is a pipe"
            for line in process.stdout:
                output.append(line.strip())
                on_line(output[-1])
        if process.returncode:
            raise CommandFailed(output)

    @contextmanager
    def _start(self, command: Sequence[str | Path]) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            pass_fds=self._inherited,
        )  # fmt: skip
        with process:
            try:
                yield process
            except BaseException:  # also Ctrl-C: nothing reads its output any more
                process.terminate()
                raise
