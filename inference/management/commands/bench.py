"""manage.py bench: what the data plane costs, as a table and JSON."""

import json
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from benchmarks import gateway

COLUMNS = {
    "requests_s": "req/s", "p50_us": "p50 us", "p99_us": "p99 us", "first_event_us": "first event us",
    "events_s": "events/s",
    "events_share": "of offered", "cpu_us": "CPU us", "memory_mb": "MB", "errors": "errors",
}  # fmt: skip


class Command(BaseCommand):
    help = "Measures the data plane with a mock engine and load generator in C, nginx beside it where installed."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("what", nargs="?", choices=["gateway"], default="gateway")
        parser.add_argument("--rounds", type=int, default=3, help="medians are taken over so many (default 3)")
        parser.add_argument("--seconds", type=float, default=5, help="length of one measurement (default 5)")
        parser.add_argument("--quick", action="store_true", help="one round of one second: shows that it runs")
        parser.add_argument("--out", type=Path, help="write the figures there as JSON")

    def handle(self, *, rounds, seconds, quick, out, **options):
        rounds, seconds = (1, 1.0) if quick else (rounds, seconds)
        try:
            results = gateway.run(seconds=seconds, rounds=rounds, report=lambda line: self.stderr.write(line))
        except gateway.CannotMeasure as reason:
            raise CommandError(str(reason)) from None
        for scenario, targets in results["scenarios"].items():
            self._table(scenario, targets)
        self.stdout.write(f"\nratios: {json.dumps(results['ratios'])}")
        if out:
            out.write_text(json.dumps(results, indent=2))

    def _table(self, scenario: str, targets: dict) -> None:
        self.stdout.write(f"\n{scenario:<20}" + "".join(f"{title:>15}" for title in COLUMNS.values()))
        for name, figures in targets.items():
            cells = ("–" if figures[column] is None else f"{figures[column]:.4g}" for column in COLUMNS)
            self.stdout.write(f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells))
