"""The widths that figures are kept in, each with its table and how long it is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.partitions import Partitioned, Span
from monitoring import models

DAY = 86_400
SAMPLES = Partitioned("monitoring_sample", "at", keep_days=2)


@dataclass(frozen=True)
class Level:
    """A width of buckets. `roll_seconds` is how often its stale buckets are rolled."""

    name: str
    seconds: int
    model: type[models.Rollup]
    table: Partitioned
    roll_seconds: float

    @property
    def width(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    def floor(self, at: datetime) -> datetime:
        """The beginning of the bucket that `at` lies in. Buckets of all levels divide the day (UTC)."""
        return datetime.fromtimestamp(at.timestamp() // self.seconds * self.seconds, at.tzinfo)


def _level(name: str, seconds: int, model: type[models.Rollup], keep_days: int, span: Span, roll: float) -> Level:
    return Level(name, seconds, model, Partitioned(model._meta.db_table, "bucket", keep_days, span), roll)


MINUTE = _level("1m", 60, models.Rollup1m, 30, Span.DAY, 5)
FIVE_MINUTES = _level("5m", 300, models.Rollup5m, 90, Span.MONTH, 15)
HOUR = _level("1h", 3600, models.Rollup1h, 400, Span.MONTH, 60)
ONE_DAY = _level("1d", DAY, models.Rollup1d, 5 * 365, Span.MONTH, 300)
LEVELS = [MINUTE, FIVE_MINUTES, HOUR, ONE_DAY]
BY_NAME = {level.name: level for level in LEVELS}
TABLES = [SAMPLES, *(level.table for level in LEVELS)]


def make_partitions() -> None:
    for table in TABLES:
        table.make()


def drop_old() -> None:
    for table in TABLES:
        table.drop_old()
