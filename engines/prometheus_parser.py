"""Parses metrics pages in Prometheus' text format. Invalid lines are skipped: an engine may be broken."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

MAX_LINE_LENGTH = 16_384
MAX_SAMPLES = 20_000
MAX_VALUE = 2.0**53  # the largest count that is exact in a float and fits a column

_PARTS = ("_bucket", "_sum", "_count")
_LABEL_VALUE = r'"(?:[^"\\]|\\.)*+"'
_SAMPLE = re.compile(rf'(?P<name>[\w:]+)(?:\{{(?P<labels>(?:[^"}}]|{_LABEL_VALUE})*+)\}})?[ \t]+(?P<value>[^\s#]+)')
_LABEL = re.compile(rf"(\w+)\s*=\s*({_LABEL_VALUE})")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class MetricSample:
    """One line: a value, never negative and never NaN, under its labels."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Histogram:
    """`buckets` are (upper bound, observations up to it) in rising order; the last bound is infinite."""

    buckets: tuple[tuple[float, int], ...]
    sum: float
    count: int


class MetricsPage:
    """The samples of the named families on one page, aggregated over label sets such as the ranks of one engine."""

    def __init__(self, text: str, names: Collection[str]):
        self._samples = defaultdict(list)
        for sample in _samples(text, frozenset(names) | {f"{name}{part}" for name in names for part in _PARTS}):
            self._samples[sample.name].append(sample)

    def total(self, name: str) -> float | None:
        """None where the name does not occur."""
        values = self._values(name)
        return sum(values) if values else None

    def highest(self, name: str) -> float | None:
        """None where the name does not occur."""
        return max(self._values(name), default=None)

    def histogram(self, name: str) -> Histogram | None:
        """None if it does not occur or is incomplete."""
        total, count = self.total(f"{name}_sum"), self.total(f"{name}_count")
        buckets = _buckets(self._samples[f"{name}_bucket"])
        if total is None or count is None or not buckets:
            return None
        return Histogram(buckets, total, int(count))

    def _values(self, name: str) -> list[float]:
        return [sample.value for sample in self._samples[name]]


def _samples(text: str, names: frozenset[str]) -> Iterator[MetricSample]:
    left, prefixes = MAX_SAMPLES, tuple(names)
    for line in text.splitlines():
        if not line.startswith(prefixes) or len(line) > MAX_LINE_LENGTH:  # most lines: a cheap first filter
            continue
        if not (found := _SAMPLE.match(line)) or found["name"] not in names:
            continue
        value = _number(found["value"])
        if value is None or value > MAX_VALUE:
            continue
        if (left := left - 1) < 0:
            return
        yield MetricSample(found["name"], _labels(found["labels"] or ""), value)


def _number(text: str) -> float | None:
    """None if it cannot be a count, size or duration."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value >= 0 else None


def _labels(text: str) -> dict[str, str]:
    return {name: _ESCAPED.sub(_unescape, quoted[1:-1]) for name, quoted in _LABEL.findall(text)}


def _unescape(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _buckets(samples: Iterable[MetricSample]) -> tuple[tuple[float, int], ...]:
    """All label sets have the same bounds, so their counts are summed."""
    counts: dict[float, int] = defaultdict(int)
    for sample in samples:
        bound = _number(sample.labels.get("le", ""))
        if bound is not None:
            counts[bound] += int(sample.value)
    return tuple(sorted(counts.items()))
