"""The bucket widths of the roll-ups, each with its table and its retention."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.partitions import Partitioned, Span
from monitoring import models

DAY = 86_400
SAMPLES = Partitioned("monitoring_sample", "at", keep_days=2)


@dataclass(frozen=True)
class RollupLevel:
    """A bucket width. Its stale buckets are rolled up every `roll_interval` seconds."""

    name: str
    seconds: int
    model: type[models.Rollup]
    table: Partitioned
    roll_interval: float

    @property
    def width(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    def floor(self, at: datetime) -> datetime:
        """The start of the bucket that contains `at`. The widths of all levels divide a day (UTC)."""
        return datetime.fromtimestamp(at.timestamp() // self.seconds * self.seconds, at.tzinfo)


def _level(name: str, seconds: int, model: type[models.Rollup], keep_days: int, span: Span, roll: float) -> RollupLevel:
    return RollupLevel(name, seconds, model, Partitioned(model._meta.db_table, "bucket", keep_days, span), roll)


MINUTE = _level("1m", 60, models.Rollup1m, 30, Span.DAY, 5)
FIVE_MINUTES = _level("5m", 300, models.Rollup5m, 90, Span.MONTH, 15)
HOUR = _level("1h", 3600, models.Rollup1h, 400, Span.MONTH, 60)
ONE_DAY = _level("1d", DAY, models.Rollup1d, 5 * 365, Span.MONTH, 300)
LEVELS = [MINUTE, FIVE_MINUTES, HOUR, ONE_DAY]
LEVELS_BY_NAME = {level.name: level for level in LEVELS}
TABLES = [SAMPLES, *(level.table for level in LEVELS)]


def make_partitions() -> None:
    for table in TABLES:
        table.make()


def drop_old_partitions() -> None:
    for table in TABLES:
        table.drop_old()
