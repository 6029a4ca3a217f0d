"""Output lines: time, name of the service, text; in colour on a terminal."""

import os
import sys
import time

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
BOLD = 1
OWN_NAME = "serai"
NAME_WIDTH = 9


class Console:
    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.coloured = self.is_terminal and "NO_COLOR" not in os.environ
        self.colours: dict[str, int] = {OWN_NAME: BOLD}

    def print_line(self, line: str, name: str = OWN_NAME) -> None:
        self._write(f"{time.strftime('%H:%M:%S')} {self._colour_text(f'{name:<{NAME_WIDTH}} |', name)} {line}\n")

    def show(self, block: str) -> None:
        """Text without prefixes, ready to be copied."""
        self._write(f"\n{block}\n\n")

    def _colour_text(self, text: str, name: str) -> str:
        if not self.coloured:
            return text
        colour = self.colours.setdefault(name, COLOURS[len(self.colours) % len(COLOURS)])
        return f"\033[{colour}m{text}\033[0m"

    def _write(self, text: str) -> None:
        """Ignores errors: services must keep running when the terminal is closed or the output's disk is full."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            return
