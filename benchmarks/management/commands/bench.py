"""manage.py bench: runs the benchmarks and prints the results as tables and JSON."""

import json
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from benchmarks import CannotMeasure, figures, gateway, sockets, start, training

SUBJECTS = {"gateway": gateway, "sockets": sockets, "start": start, "figures": figures, "training": training}


class Command(BaseCommand):
    help = (
        "Measures the data plane with a mock engine and load generator in C, nginx beside it where installed; "
        "or (`figures`) how soon the monitoring routes answer on a month of figures of 160 GPUs; "
        "or (`training`) the losses and step times of the trainer beside TRL used plainly; "
        "or on the running product: how late many sockets hear of events (`sockets`), the time from a cold request to "
        "the first token beside vLLM started by hand (`start`)."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("what", nargs="?", choices=list(SUBJECTS), default="gateway")
        parser.add_argument("--rounds", type=int, default=3, help="medians are taken over so many (default 3)")
        parser.add_argument("--seconds", type=float, default=5, help="length of one measurement (default 5)")
        parser.add_argument("--quick", action="store_true", help="one round of one second: shows that it runs")
        parser.add_argument("--out", type=Path, help="write the figures there as JSON")

    def handle(self, *, what, rounds, seconds, quick, out, **options):
        rounds, seconds = (1, 1.0) if quick else (rounds, seconds)
        subject = SUBJECTS[what]
        try:
            results = subject.run(seconds=seconds, rounds=rounds, report=lambda line: self.stderr.write(line))
        except CannotMeasure as reason:
            raise CommandError(str(reason)) from None
        for scenario, rows in results["scenarios"].items():
            self._print_table(scenario, rows, subject.COLUMNS)
        self.stdout.write(f"\nratios: {json.dumps(results['ratios'])}")
        if out:
            out.write_text(json.dumps(results, indent=2))

    def _print_table(self, scenario: str, rows: dict, columns: dict[str, str]) -> None:
        self.stdout.write(f"\n{scenario:<20}" + "".join(f"{title:>15}" for title in columns.values()))
        for name, row in rows.items():
            cells = ("–" if row[column] is None else f"{row[column]:.4g}" for column in columns)
            self.stdout.write(f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells))
