"""What keeps the tables of this app in order: partitions ahead, old ones dropped, dead gateways forgotten."""

from datetime import date, timedelta

from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone
from psycopg import sql

from inference.models import GatewayHeartbeat

TABLE = "inference_usagerecord"
DAYS_AHEAD = 14
KEEP_DAYS = 400  # a year of bills and some more
DEAD_GATEWAY = timedelta(minutes=5)


def make_usage_partitions(today: date | None = None) -> list[str]:
    """One partition for each day up to DAYS_AHEAD; returns the new ones. Rows in DEFAULT stay there and count."""
    today = today or timezone.now().date()
    existing = _partitions()
    made = []
    for day in (today + timedelta(days=offset) for offset in range(DAYS_AHEAD + 1)):
        name = f"{TABLE}_{day:%Y%m%d}"
        if name not in existing and not _default_holds(day):
            _create(name, day)
            made.append(name)
    return made


def drop_old_usage(today: date | None = None) -> list[str]:
    """Retention by dropping whole days."""
    oldest = f"{TABLE}_{(today or timezone.now().date()) - timedelta(days=KEEP_DAYS):%Y%m%d}"
    old = [name for name in _partitions() if name[-8:].isdigit() and name < oldest]
    with connection.cursor() as cursor:
        for name in old:
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    return old


def forget_dead_gateways() -> None:
    GatewayHeartbeat.objects.filter(beat_at__lt=Now() - DEAD_GATEWAY).delete()


def _partitions() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [TABLE])
        return {name for (name,) in cursor.fetchall()}


def _default_holds(day: date) -> bool:
    """Postgres refuses a partition whose rows are in DEFAULT already."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {TABLE}_default WHERE started_on = %s)", [day])
        return cursor.fetchone()[0]


def _create(name: str, day: date) -> None:
    statement = sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
        sql.Identifier(name), sql.Identifier(TABLE), sql.Literal(day), sql.Literal(day + timedelta(days=1))
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)
