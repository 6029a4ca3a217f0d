"""The usage ledger, summed up; and, per model, what the engines' own counters say beside it."""

from datetime import date, timedelta

from django.db.models import Count, Q, QuerySet, Sum
from django.utils import timezone

from accounts.actor import Actor
from inference.models import EngineTokens, UsageRecord

GROUPS = {"tenant": ["tenant_id"], "key": ["key_id"], "model": ["model_id", "model_name"], "day": ["started_on"]}
DEFAULT_DAYS = 30


def records(actor: Actor, start: date, end: date) -> QuerySet:
    """What `actor` may see of the days from `start` to `end`, both included."""
    rows = UsageRecord.objects.filter(started_on__gte=start, started_on__lte=end)
    return rows if actor.sees_all else rows.filter(tenant_id=actor.tenant.pk)


def summary(actor: Actor, *, group_by: str, start: date | None, end: date | None, **only) -> dict:
    """Sums per group, the largest first. Tokens are those delivered to the client."""
    end = end or timezone.now().date()
    start = start or end - timedelta(days=DEFAULT_DAYS)
    rows = records(actor, start, end).filter(**only)
    grouped = list(rows.values(*GROUPS[group_by]).annotate(**SUMS).order_by("-requests"))
    if group_by == "model":
        for row in grouped:
            row["engine"] = reconcile(row["model_id"], actor, start, end)
    return {
        "group_by": group_by,
        "start_date": start,
        "end_date": end,
        "items": grouped,
        "total": rows.aggregate(**SUMS),
    }


SUMS = {
    "requests": Count("request_id"),
    "errors": Count("request_id", filter=Q(http_status__gte=500)),
    "prompt_tokens": Sum("prompt_tokens", default=0),
    "completion_tokens": Sum("completion_tokens", default=0),
    "cached_tokens": Sum("cached_tokens", default=0),
}


def reconcile(model_id: str, actor: Actor, start: date, end: date) -> dict:
    """Counters of the engine runs read in that time, and how much more they made than was delivered.

    Runs that began before `start` count whole, so the difference means something for whole runs only.
    """
    runs = EngineTokens.objects.filter(instance__model_id=model_id, read_at__date__gte=start, read_at__date__lte=end)
    made = runs.aggregate(prompt=Sum("prompt_tokens", default=0), generation=Sum("generation_tokens", default=0))
    delivered = UsageRecord.objects.filter(model_id=model_id, started_on__gte=start, started_on__lte=end).aggregate(
        **SUMS
    )
    return {
        "prompt_tokens": made["prompt"],
        "generation_tokens": made["generation"],
        "undelivered_tokens": made["generation"] - delivered["completion_tokens"],
        "prompt_difference": made["prompt"] - delivered["prompt_tokens"],
    }
