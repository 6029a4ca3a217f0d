"""Tables partitioned by time: partitions are made ahead of time and dropped whole when they are old.

Each table has a DEFAULT partition, so that no row is lost if the scheduler is down for weeks.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from django.db import connection, transaction
from django.utils import timezone
from psycopg import sql

# The transaction that wrote a row. Rows older than the oldest open transaction are final; timestamps cannot show that.
WRITTEN_IN = "written_in bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint"

LOCK_TIMEOUT = "2s"  # waiting for a table lock blocks all other queries; the next hour is soon enough


class Span(StrEnum):
    """How much time one partition holds."""

    DAY = "day"
    MONTH = "month"

    def first_day(self, day: date) -> date:
        return day if self is Span.DAY else day.replace(day=1)

    def next(self, first: date) -> date:
        return first + timedelta(days=1) if self is Span.DAY else (first + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True)
class Partitioned:
    """A table with RANGE partitions on `column` (a date or a timestamp). Rows are kept at least `keep_days` days."""

    table: str
    column: str
    keep_days: int
    span: Span = Span.DAY
    ahead_days: int = 14

    def oldest_kept(self, today: date | None = None) -> date:
        return (today or timezone.now().date()) - timedelta(days=self.keep_days)

    def make(self, today: date | None = None) -> list[str]:
        """Create the partitions up to `ahead_days` from today; return the new ones. Rows in DEFAULT stay there."""
        today = today or timezone.now().date()
        existing, made = self.partitions(), []
        first = self.span.first_day(today)
        while first <= today + timedelta(days=self.ahead_days):
            name, following = f"{self.table}_{first:%Y%m%d}", self.span.next(first)
            if name not in existing and not self._default_has_rows(first, following):
                self._create(name, first, following)
                made.append(name)
            first = following
        return made

    def drop_old(self, today: date | None = None) -> list[str]:
        """Drop whole partitions; delete rows only from DEFAULT, which is almost empty. Return the dropped names."""
        oldest = self.oldest_kept(today)
        old = [name for name, first in self.partitions().items() if first and self.span.next(first) <= oldest]
        for name in sorted(old):
            _execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
        _execute(
            sql.SQL("DELETE FROM {} WHERE {} < {}").format(
                sql.Identifier(f"{self.table}_default"), sql.Identifier(self.column), _midnight_literal(oldest)
            )
        )
        return sorted(old)

    def partitions(self) -> dict[str, date | None]:
        """Name → first day, None for DEFAULT."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
                "WHERE inhparent = %s::regclass",
                [self.table],
            )
            return {name: _first_day_of(name) for (name,) in cursor.fetchall()}

    def _default_has_rows(self, first: date, following: date) -> bool:
        """Postgres refuses to create a partition if DEFAULT holds rows of it."""
        query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {} WHERE {column} >= {} AND {column} < {})").format(
            sql.Identifier(f"{self.table}_default"),
            _midnight_literal(first),
            _midnight_literal(following),
            column=sql.Identifier(self.column),
        )
        with connection.cursor() as cursor:
            cursor.execute(query)
            return bool(cursor.fetchone()[0])

    def _create(self, name: str, first: date, following: date) -> None:
        _execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier(name), sql.Identifier(self.table), _midnight_literal(first), _midnight_literal(following)
            )
        )


def _first_day_of(partition: str) -> date | None:
    day = partition[-8:]
    return datetime.strptime(day, "%Y%m%d").date() if day.isdigit() else None


def _midnight_literal(day: date) -> sql.Literal:
    """In UTC and as text, which fits both date and timestamp columns."""
    return sql.Literal(f"{datetime.combine(day, time())}+00")


def _execute(statement: sql.Composable) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(statement)
