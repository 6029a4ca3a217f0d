"""Sums of the usage ledger and, per model, the engines' own token counters for comparison."""

from datetime import date, timedelta

from django.db.models import Count, Q, QuerySet, Sum
from django.utils import timezone

from accounts.actor import Actor
from inference.models import EngineTokens, UsageRecord
from models_app.models import Model

# How a request ended, as the ledger's `status` says it.
OK, CLIENT_CLOSED, UPSTREAM_ERROR, TIMEOUT, REJECTED, LOST = (
    "ok", "client_closed", "upstream_error", "timeout", "rejected", "lost",
)  # fmt: skip
GROUPS = {"tenant": ["tenant_id"], "key": ["key_id"], "model": ["model_id", "model_name"], "day": ["started_on"]}
DEFAULT_DAYS = 30
FAILED = Q(http_status__gte=500) | Q(status__in=[LOST, TIMEOUT, UPSTREAM_ERROR])
SUMS = {
    "requests": Count("request_id"),
    "errors": Count("request_id", filter=FAILED),
    "prompt_tokens": Sum("prompt_tokens", default=0),
    "completion_tokens": Sum("completion_tokens", default=0),
    "cached_tokens": Sum("cached_tokens", default=0),
}


def records(start: date, end: date) -> QuerySet:
    """Records from `start` to `end`, both days included."""
    return UsageRecord.objects.filter(started_on__gte=start, started_on__lte=end)


def summary(actor: Actor, *, group_by: str, start: date | None = None, end: date | None = None, **only) -> dict:
    """Sums per group, the busiest first (days in order). Tokens are those delivered to the client.

    A tenant sees its own requests; an operator without an acting tenant sees all.
    """
    end = end or timezone.now().date()
    start = start or end - timedelta(days=DEFAULT_DAYS)
    rows = records(start, end).filter(**only)
    if not actor.sees_all:
        rows = rows.filter(tenant_id=actor.tenant.pk if actor.tenant else None)
    fields = GROUPS[group_by]
    grouped = list(
        rows.values(*fields).annotate(**SUMS).order_by(*(fields if group_by == "day" else ["-requests", *fields]))
    )
    if group_by == "model":
        _add_engine_counts(grouped, actor, start, end)
    return {
        "group_by": group_by, "start_date": start, "end_date": end, "items": grouped, "total": rows.aggregate(**SUMS),
    }  # fmt: skip


def _add_engine_counts(rows: list[dict], actor: Actor, start: date, end: date) -> None:
    """Only for models whose requests the actor may all see: an engine counts the requests of every tenant."""
    ids = {row["model_id"] for row in rows}
    visible_ids = set(Model.objects.visible_to(actor).filter(pk__in=ids).values_list("pk", flat=True))
    generated, delivered = _engine_counts(visible_ids, start, end), _delivered(visible_ids, start, end)
    for row in rows:
        row["engine"] = generated.get(row["model_id"])
        row["difference"] = _difference(row["engine"], delivered.get(row["model_id"]))


def _engine_counts(model_ids: set[str], start: date, end: date) -> dict[str, dict]:
    """Model id → tokens by the counters of engine runs that were read in that time.

    A run that began before `start` counts in full, so the difference is exact only for runs within the range.
    """
    runs = EngineTokens.objects.filter(instance__model_id__in=model_ids, read_at__date__range=(start, end))
    grouped = runs.values("instance__model_id").annotate(
        prompt=Sum("prompt_tokens"), completion=Sum("generation_tokens")
    )
    return {
        row["instance__model_id"]: {"prompt_tokens": row["prompt"], "completion_tokens": row["completion"]}
        for row in grouped
    }


def _delivered(model_ids: set[str], start: date, end: date) -> dict[str, dict]:
    grouped = records(start, end).filter(model_id__in=model_ids).values("model_id").annotate(**SUMS)
    return {row["model_id"]: row for row in grouped}


def _difference(generated: dict | None, delivered: dict | None) -> dict | None:
    """Tokens that the engines generated beyond the ledger, mostly of streams that clients cut off."""
    if generated is None or delivered is None:
        return None
    return {name: generated[name] - delivered[name] for name in generated}
