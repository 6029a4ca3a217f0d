"""Adapters in running engines, by the rows: what a base accepts, where a version is loaded, whether it is in use."""

from django.db.models.functions import Now
from django.utils.translation import gettext as _

from core.errors import Conflict
from inference.models import GatewayHeartbeat, Instance
from inference.table_cleanup import GATEWAY_TIMEOUT
from models_app import options
from models_app.models import Model

LOADED, LEAVING, REFUSED = "loaded", "leaving", "refused"


def require_support(model: Model, rank: int) -> None:
    """Raises Conflict if the model, as it runs or would be started, accepts no adapter of this rank."""
    limits = options.adapter_limits(model.config)
    running = list(model.instances.wanted().exclude(running_generation=0).values_list("adapter_slots", "adapter_rank"))
    names = {"base": model.name, "rank": rank, "most": limits.rank if limits else 0}
    if limits is None:
        raise Conflict(_("%(base)s takes no adapters: set its config.enable_lora to true and restart it.") % names)
    if rank > limits.rank:
        problem = _(
            "The adapter's rank is %(rank)d, and %(base)s takes at most %(most)d: raise its config.max_lora_rank."
        )
        raise Conflict(problem % names)
    if not all(slots and rank <= highest for slots, highest in running):
        problem = _("%(base)s was started before its options for adapters were changed: restart it.")
        raise Conflict(problem % names)


def loaded(version_ids: list[str]) -> dict[str, list[dict]]:
    """Version id → its state in each active replica that has one."""
    states: dict[str, list[dict]] = {}
    instances = Instance.objects.active().filter(adapters__has_any_keys=version_ids)
    for adapters in instances.values_list("adapters", flat=True):
        for version_id in adapters.keys() & set(version_ids):
            states.setdefault(version_id, []).append(adapters[version_id])
    return states


def in_use(version_ids: list[str]) -> bool:
    """Whether a gateway has requests for one of them in flight or waiting, by its last heartbeat."""
    reports = GatewayHeartbeat.objects.filter(beat_at__gt=Now() - GATEWAY_TIMEOUT).values_list("adapters", flat=True)
    wanted = set(version_ids)
    return any(_versions(report) & wanted for report in reports)


def _versions(report: dict) -> set[str]:
    in_flight = (version for versions in report.get("inflight", {}).values() for version in versions)
    return {*in_flight, *report.get("waiting", {})}
