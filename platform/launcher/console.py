"""Lines on the terminal: time, who says it, what; in colour where there is a terminal."""

import os
import sys
import time

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
BOLD = 1
OWN_NAME = "serai"
NAME_WIDTH = 9


class Console:
    def __init__(self) -> None:
        self.coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.colours: dict[str, int] = {OWN_NAME: BOLD}

    def say(self, line: str, name: str = OWN_NAME) -> None:
        self._write(f"{time.strftime('%H:%M:%S')} {self._painted(f'{name:<{NAME_WIDTH}} |', name)} {line}\n")

    def show(self, block: str) -> None:
        """Text without prefixes, ready to be copied."""
        self._write(f"\n{block}\n\n")

    def _painted(self, text: str, name: str) -> str:
        if not self.coloured:
            return text
        colour = self.colours.setdefault(name, COLOURS[len(self.colours) % len(COLOURS)])
        return f"\033[{colour}m{text}\033[0m"

    def _write(self, text: str) -> None:
        """Services must go on when the terminal has gone or the disk of a redirected output is full."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            return
