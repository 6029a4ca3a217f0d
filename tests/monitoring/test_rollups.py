"""Samples and usage become roll-ups: the same ones however often, in whatever order and however late."""

import random
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connections

from core.partitions import Partitioned, Span
from monitoring.figures import levels, rollups, samples
from monitoring.figures.catalogue import BOUNDS
from monitoring.figures.levels import LEVELS, LEVELS_BY_NAME
from monitoring.models import Series, Stale, Watermark
from tests.support.metric_rows import empty, everything, measure, minutes_ago, raw, roll, rolled, sample, used

pytestmark = pytest.mark.usefixtures("store")
DAY_AGO = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def figures(level: str, metric: str, **key) -> list[tuple]:
    return [row[1:] for row in rolled(level, metric, **key)]


def test_a_gauge_is_rolled_into_every_level():
    for second, value in ((0, 10), (30, 30), (60, 50), (300, 70)):
        measure("cpu_percent", DAY_AGO + timedelta(seconds=second), value)
    roll()
    assert figures("1m", "cpu_percent") == [(2, 40, 10, 30, 30), (1, 50, 50, 50, 50), (1, 70, 70, 70, 70)]
    assert figures("5m", "cpu_percent") == [(3, 90, 10, 50, 50), (1, 70, 70, 70, 70)]
    assert rolled("1h", "cpu_percent") == [(DAY_AGO, 4, 160, 10, 70, 70)]
    assert rolled("1d", "cpu_percent") == [(DAY_AGO, 4, 160, 10, 70, 70)]


def test_the_same_sample_sent_twice_counts_once():
    for _ in range(2):
        measure("cpu_percent", DAY_AGO, 10)
    roll()
    assert (raw("cpu_percent"), figures("1m", "cpu_percent")) == (1, [(1, 10, 10, 10, 10)])


def test_rolling_again_changes_nothing():
    for minute in range(0, 180, 7):
        measure("cpu_percent", DAY_AGO + timedelta(minutes=minute), minute)
        used(DAY_AGO + timedelta(minutes=minute), duration_ms=minute)
    roll()
    once = everything()
    Watermark.objects.update(seen=0)
    roll(times=10)
    assert everything() == once
    assert not Stale.objects.exists()


@pytest.mark.parametrize("seed", range(3))
def test_order_and_gaps_do_not_matter(seed):
    chance = random.Random(seed)
    moments = [DAY_AGO + timedelta(seconds=second) for second in chance.sample(range(7200), 60)]
    values = {moment: chance.uniform(0, 100) for moment in moments}

    def write_and_roll(order: list, roll_after: list) -> dict:
        empty()
        for number, moment in enumerate(order):
            measure("cpu_percent", moment, values[moment])
            used(moment, duration_ms=int(values[moment] * 10))
            if number in roll_after:
                roll()
        roll()
        return everything()

    at_once = write_and_roll(sorted(moments), roll_after=[])
    piecemeal = write_and_roll(chance.sample(moments, len(moments)), roll_after=chance.sample(range(len(moments)), 9))
    assert len(at_once["1d"]) > 10
    assert piecemeal == at_once


def test_a_late_sample_is_rolled_again():
    measure("cpu_percent", DAY_AGO, 10)
    measure("cpu_percent", DAY_AGO + timedelta(hours=5), 20)
    roll()
    measure("cpu_percent", DAY_AGO + timedelta(seconds=1), 90)
    roll()
    assert figures("1m", "cpu_percent")[0] == (2, 100, 10, 90, 90)
    assert figures("1d", "cpu_percent") == [(3, 120, 10, 90, 20)]


def test_an_outage_of_the_scheduler_leaves_no_gap():
    minutes = [DAY_AGO + timedelta(minutes=minute) for minute in range(24 * 60)]
    samples.write_samples([sample("cpu_percent", minute, 1) for minute in minutes])
    for hour in minutes[::60]:
        used(hour)
    roll(times=2)  # each turn of a duty is short, so more than one may be needed
    assert [len(rolled(level, "cpu_percent")) for level in ("1m", "5m", "1h", "1d")] == [1440, 288, 24, 1]
    assert figures("1d", "requests") == [(24, 24, 1, 1, 1)]


def test_what_a_transaction_has_not_committed_is_rolled_when_it_has():
    """Its rows are older than others that were rolled meanwhile: a watermark by the clock would pass them."""
    slow = connections.create_connection("default")
    try:
        slow.set_autocommit(False)
        with slow.cursor() as cursor:
            cursor.execute(
                "INSERT INTO monitoring_series (metric, node_id, device, model_id, replica, tenant_id, cause)"
                " VALUES ('cpu_percent', 'node-slow', '', '', 0, '', '') RETURNING id"
            )
            series = cursor.fetchone()[0]
            cursor.execute("INSERT INTO monitoring_sample VALUES (%s, 1, %s, 7)", [series, DAY_AGO])
        measure("cpu_percent", DAY_AGO, 1)
        roll()
        slow.commit()
    finally:
        slow.close()
    roll()
    assert figures("1m", "cpu_percent", node_id="node-slow") == [(1, 7, 7, 7, 7)]
    assert figures("1m", "cpu_percent", node_id="node-1") == [(1, 1, 1, 1, 1)]


def test_a_restored_database_begins_anew():
    Watermark.objects.create(source="monitoring_sample", seen=2**50)
    measure("cpu_percent", DAY_AGO, 1)
    roll()
    assert figures("1m", "cpu_percent") == [(1, 1, 1, 1, 1)]


def test_all_devices_together_are_a_series_of_their_own():
    for device, value in (("cuda:0", 10), ("cuda:1", 90)):
        measure("gpu_utilization", DAY_AGO, value, device=device)
    roll()
    total = LEVELS_BY_NAME["1d"].model.objects.get(series__in=Series.objects.totals())
    assert (total.count, total.sum, total.min, total.max, total.last) == (2, 100, 10, 90, 50)


def test_usage_becomes_requests_times_and_tokens_per_model_and_tenant():
    used(DAY_AGO, duration_ms=200, ttft_ms=None)
    used(DAY_AGO + timedelta(seconds=59), duration_ms=400, ttft_ms=30)
    used(DAY_AGO, tenant_id="tenant-b")
    roll()
    key = {"model_id": "model-a", "tenant_id": "tenant-a"}
    assert figures("1m", "requests", **key) == [(1, 2, 2, 2, 2)]
    assert figures("1m", "prompt_tokens", **key) == [(1, 20, 20, 20, 20)]
    assert figures("1m", "response_time", **key) == [(2, 0.6, 0.2, 0.4, 0.3)]
    assert figures("1m", "time_to_first_token", **key) == [(1, 0.03, 0.03, 0.03, 0.03)]
    assert figures("1m", "requests", tenant_id="tenant-b") == [(1, 1, 1, 1, 1)]
    assert figures("1m", "failed_requests") == []


@pytest.mark.parametrize("failure", [{"status": "timeout"}, {"status": "upstream_error"}, {"status": "lost"}])
def test_failures_are_counted_by_cause(failure):
    used(DAY_AGO)
    used(DAY_AGO, **failure)
    roll()
    assert figures("1h", "failed_requests", cause=failure["status"]) == [(1, 1, 1, 1, 1)]


def test_times_fall_at_or_below_their_bound():
    for milliseconds in (1, 250, 251, 10**7):
        used(DAY_AGO, duration_ms=milliseconds)
    roll()
    (row,) = LEVELS_BY_NAME["1d"].model.objects.filter(
        series__in=Series.objects.single().filter(metric="response_time")
    )
    held = {(*BOUNDS, None)[place]: count for place, count in enumerate(row.buckets) if count}
    assert held == {0.001: 1, 0.25: 1, 0.35: 1, None: 1}


def test_histograms_add_up_place_by_place():
    for minute, buckets in enumerate(([1, 0, 2], [0, 5, 1])):
        measure("engine_ttft", DAY_AGO + timedelta(minutes=minute), 6.0, count=3 * (1 + minute), buckets=buckets)
    roll()
    (row,) = LEVELS_BY_NAME["5m"].model.objects.filter(series__in=Series.objects.single())
    assert (row.buckets, row.count, row.sum, row.min, row.max) == ([1, 5, 3], 9, 12.0, 1.0, 2.0)


def test_usage_that_comes_days_late_is_counted():
    at = minutes_ago(10 * 24 * 60)
    used(minutes_ago(1))
    roll()
    used(at)
    roll()
    assert len(rolled("1d", "requests")) == 2


def test_what_is_no_longer_kept_whole_is_not_made_anew():
    """Its minutes were dropped: out of the one that came late the hour would be made alone."""
    old = DAY_AGO - timedelta(days=40)
    measure("cpu_percent", old, 1)
    used(old)
    roll()
    assert [rolled(level.name, "requests") for level in LEVELS] == [[], [], [], []]
    Stale.objects.create(level="1m", bucket=old)
    rollups.roll_up(LEVELS_BY_NAME["1m"])
    assert not Stale.objects.exists()


# --- partitions


def test_partitions_are_made_ahead_and_dropped_whole():
    today = date(2031, 3, 30)
    for table in levels.TABLES:
        made = table.make(today)
        assert made and table.make(today) == []
        late = today + timedelta(days=table.keep_days + 80)
        assert set(made) <= set(table.drop_old(late))


@pytest.mark.parametrize(
    ("span", "names"),
    [(Span.DAY, ["20310130", "20310131", "20310201"]), (Span.MONTH, ["20310101", "20310201"])],
)
def test_spans_follow_the_calendar(span, names):
    table = Partitioned("monitoring_rollup1d", "bucket", 30, span, ahead_days=2)
    try:
        assert [name[-8:] for name in table.make(date(2031, 1, 30))] == names
    finally:
        table.drop_old(date(2033, 1, 1))
        levels.make_partitions()


def test_rows_without_a_partition_are_kept_and_end_in_time():
    table = levels.SAMPLES
    measure("cpu_percent", datetime(2031, 5, 5, 12, tzinfo=UTC), 1)
    assert f"{table.table}_20310505" not in table.make(date(2031, 5, 5))
    table.drop_old(date(2031, 5, 7))
    assert raw("cpu_percent") == 1
    table.drop_old(date(2031, 5, 8))
    assert raw("cpu_percent") == 0
    levels.make_partitions()
