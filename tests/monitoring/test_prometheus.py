"""/metrics, read as Prometheus reads it: what it tells, to whom, and that nothing of it ever falls."""

import math
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from accounts import services
from accounts.models import ApiKey, Scope, User
from inference.models import GatewayHeartbeat, InstanceState
from models_app.models import Model
from monitoring.figures import prometheus, rollups
from monitoring.figures.catalogue import BOUNDS
from monitoring.figures.levels import LEVELS
from tests.support import instance_rows
from tests.support.metric_rows import measure, minutes_ago, roll, store, used  # noqa: F401

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def ours(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours")


def page(api, who) -> str:
    reply = api(who).get("/metrics")
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, prometheus.CONTENT_TYPE)
    return reply.content.decode()


def read(text: str) -> dict[tuple[str, Labels], float]:
    """By Prometheus' own parser: (name, labels) → value."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def labelled(name: str, **labels) -> tuple[str, Labels]:
    return name, frozenset(labels.items())


def test_counters_sums_and_gauges_are_read(api, operator, store, ours):  # noqa: F811
    measure("cpu_percent", datetime.now(UTC), 45)
    for days in (0, 3, 20):
        used(minutes_ago(days * 24 * 60), tenant_id=ours.tenant_id, model_id=ours.pk, duration_ms=500)
    roll()
    found = read(page(api, operator))
    labels = {"model": ours.pk, "tenant": ours.tenant_id}
    assert found[labelled("serai_cpu_percent", node="node-1")] == 45
    assert found[labelled("serai_requests_total", **labels)] == 3
    assert found[labelled("serai_response_time_sum", **labels)] == 1.5
    assert found[labelled("serai_response_time_count", **labels)] == 3
    assert found[labelled("serai_series_left_out")] == 0


def test_times_are_histograms_over_all_that_is_kept(api, operator, store, ours):  # noqa: F811
    for days, milliseconds in ((0, 90), (2, 100), (3, 400), (20, 700_000)):
        moment = minutes_ago(days * 24 * 60)
        used(moment, tenant_id=ours.tenant_id, model_id=ours.pk, duration_ms=milliseconds, ttft_ms=30)
    roll()
    text = page(api, operator)
    assert "# TYPE serai_response_time histogram" in text
    found = read(text)

    def at_most(name: str, bound: str) -> float:
        return found[labelled(f"serai_{name}_bucket", model=ours.pk, tenant=ours.tenant_id, le=bound)]

    counts = {bound: at_most("response_time", bound) for bound in ("0.04", "0.1", "0.25", "0.5", "640", "+Inf")}
    assert counts == {"0.04": 0, "0.1": 2, "0.25": 2, "0.5": 3, "640": 3, "+Inf": 4}
    assert (at_most("time_to_first_token", "0.02"), at_most("time_to_first_token", "0.04")) == (0, 4)


def test_the_bounds_that_are_shown_are_kept_ones():
    assert set(prometheus.SHOWN_BOUNDS) <= set(BOUNDS)


def test_every_histogram_rises_to_its_count(api, operator, store, ours):  # noqa: F811
    measure("engine_ttft", minutes_ago(1), 3.0, 6, [1] * 6 + [0] * 25, model_id=ours.pk)
    measure("engine_tpot", minutes_ago(1), 3.0, 6, model_id=ours.pk)
    roll()
    families = {family.name: family for family in text_string_to_metric_families(page(api, operator))}
    for name in ("serai_engine_ttft", "serai_engine_tpot"):
        buckets = [sample for sample in families[name].samples if sample.name.endswith("_bucket")]
        bounds = [float(sample.labels["le"]) for sample in buckets]
        assert bounds == sorted(bounds) and bounds[-1] == math.inf
        counts = [sample.value for sample in buckets]
        assert counts == sorted(counts) and counts[-1] == 6


def test_requests_in_flight_and_waiting_are_added_up_over_the_gateways(api, operator, store, ours, tenant):  # noqa: F811
    instance = instance_rows.instance(ours, InstanceState.READY)
    cold = Model.objects.create(tenant=tenant, name="cold")
    resting = Model.objects.create(tenant=tenant, name="resting")
    instance_rows.instance(resting, InstanceState.READY)
    for number in range(2):
        GatewayHeartbeat.objects.create(
            id=f"00000000-0000-0000-0000-00000000000{number}", host="here", pid=1, beat_at=datetime.now(UTC),
            inflight={instance.pk: 2, "gone": 5}, waiting={cold.pk: 3},
        )  # fmt: skip
    found = read(page(api, operator))
    request_values = {name: value for name, value in found.items() if name[0].startswith("serai_requests_")}
    assert request_values == {
        labelled("serai_requests_in_flight", model=ours.pk): 4,
        labelled("serai_requests_in_flight", model=resting.pk): 0,
        labelled("serai_requests_waiting", model=ours.pk): 0,
        labelled("serai_requests_waiting", model=resting.pk): 0,
        labelled("serai_requests_waiting", model=cold.pk): 6,
    }


@pytest.mark.parametrize("left", range(len(LEVELS)))
def test_a_counter_never_falls_while_something_is_still_to_be_rolled(api, operator, store, ours, left):  # noqa: F811
    """Whatever the scheduler has left undone: the sum is taken where it is known."""
    moments = [minutes_ago(minutes) for minutes in (0, 70, 1500, 3000, 20000)]
    for moment in moments:
        used(moment, tenant_id=ours.tenant_id, model_id=ours.pk)
    rollups.mark_stale_minutes()
    seen = (0.0, 0.0)
    for level in LEVELS:
        rollups.roll_up(level)
        found = read(page(api, operator))
        names = ("serai_requests_total", "serai_response_time_bucket")
        now = tuple(sum(value for (name, _labels), value in found.items() if name == wanted) for wanted in names)
        assert now >= seen
        seen = now
        if LEVELS.index(level) == left:
            break
    assert seen[0] == len(moments)


def test_more_series_than_the_cap_are_left_out_and_counted(api, operator, store, monkeypatch):  # noqa: F811
    monkeypatch.setattr(prometheus, "MAX_LINES", 4)
    for number in range(6):
        measure("cpu_percent", datetime.now(UTC), 1, node_id=f"node-{number}")
    found = read(page(api, operator))
    assert len(found) < 6
    assert found[labelled("serai_series_left_out")] > 0


def test_what_is_left_out_first_are_histograms(api, operator, store, ours, monkeypatch):  # noqa: F811
    monkeypatch.setattr(prometheus, "MAX_LINES", 25)
    used(minutes_ago(1), tenant_id=ours.tenant_id, model_id=ours.pk)
    roll()
    found = read(page(api, operator))
    assert found[labelled("serai_requests_total", model=ours.pk, tenant=ours.tenant_id)] == 1
    assert found[labelled("serai_series_left_out")] == 3
    assert not [name for name, _labels in found if name.endswith("_bucket")]


def test_labels_cannot_break_the_form(api, operator, store):  # noqa: F811
    odd = 'a "b" \\ c\nd'
    measure("cpu_percent", datetime.now(UTC), 1, node_id=odd)
    assert read(page(api, operator))[labelled("serai_cpu_percent", node=odd)] == 1


# --- who


def test_the_figures_of_prometheus_are_the_operators(api, owner, key):
    assert api(owner).get("/metrics").status_code == 403
    assert api(key()).get("/metrics").status_code == 403
    assert api().get("/metrics").status_code == 401


def test_a_scraper_has_a_key_that_an_operator_made_for_it_and_that_does_nothing_else(api, operator, tenant, store):  # noqa: F811
    client = api(operator, **{"Serai-Tenant": tenant.slug})
    reply = client.post("/api/keys", {"name": "prometheus", "role": "viewer", "scopes": [Scope.METRICS]})
    assert reply.status_code == 201
    secret = reply.json()["secret"]
    assert read(page(api, secret))
    for path in ("/api/models", "/api/config", "/api/system/status"):
        assert api(secret).get(path).status_code == 403
    services.revoke_key(ApiKey.objects.get())
    assert api(secret).get("/metrics").status_code == 401


def test_it_ends_when_its_maker_is_no_operator_any_more(api, operator, tenant, key, store):  # noqa: F811
    secret = key(maker=operator, scopes=[Scope.METRICS])
    assert api(secret).get("/metrics").status_code == 200
    services.add_member(tenant, operator, "owner")
    User.objects.filter(pk=operator.pk).update(is_staff=False)
    assert api(secret).get("/metrics").status_code == 403


def test_nobody_else_makes_one(api, owner):
    reply = api(owner).post("/api/keys", {"name": "mine", "scopes": [Scope.READ, Scope.METRICS]})
    assert (reply.status_code, ApiKey.objects.count()) == (403, 0)
