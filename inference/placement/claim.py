"""The start of whatever needs device memory: options, the state of the cluster, a decision, the claim, the record.

`place_instance` does it for a new instance of a model, `place_and_claim` for any other row that needs memory.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts import configuration
from core import ids
from inference import memory_ledger
from inference.instances import transitions
from inference.models import DecisionOutcome, Instance
from inference.placement import cluster_view, decision_log, reason_messages, resource_options
from inference.placement.choice import choose_placement
from inference.placement.types import ClusterView, PlacementDecision, PlacementRequest
from models_app.models import Model

MAX_ATTEMPTS = 3


class PlacementRefused(Exception):
    """A decision that placed nothing: the cause of the error that the caller gets, with its trace for operators."""

    def __init__(self, decision: PlacementDecision):
        super().__init__()
        self.decision = decision


def place_instance(
    model: Model, *, replica: int, timeout: int | None = None, on_demand: bool = False, is_retry: bool = False
) -> Instance:
    """Create one more instance of `model` with devices reserved for it, in the caller's transaction.

    Idle models are evicted if nothing else fits; `is_retry` protects more of them (placement/eviction.py).
    Raises InsufficientResources (NoRoomYet if an on-demand start can wait), EngineUnavailable or InvalidRequest (bad
    model files); the refused decision is stored then, so the caller must commit before it raises the error further.
    """
    request = replace(resource_options.placement_request(model), is_retry=is_retry)
    instance_id = ids.new_instance_id()
    decision = place_and_claim(instance_id, request, lambda: cluster_view.view_for_model(model))
    if decision.option is None:
        waits = on_demand and decision.waits and not is_retry
        decision_log.save_decision(model, decision, DecisionOutcome.WAITING if waits else DecisionOutcome.REFUSED)
        raise reason_messages.refusal_error(decision, waits) from PlacementRefused(decision)
    instance = Instance.objects.create(
        pk=instance_id,
        tenant_id=model.tenant_id,
        model=model,
        replica=replica,
        node_id=decision.devices[0].node_id,
        served_name=model.name,
        on_demand=on_demand,
        start_timeout=timeout or configuration.current().default_model_timeout,
        profile=decision.option.profile,
        placement=placement_json(decision),
    )
    decision_log.save_decision(model, decision, DecisionOutcome.PLACED, instance)
    transitions.publish_status(instance)
    return instance


@transaction.atomic
def place_and_claim(owner: str, request: PlacementRequest, view: Callable[[], ClusterView]) -> PlacementDecision:
    """Choose devices for `owner`, the id of any row that needs memory, and reserve them.

    Call it in the transaction that locks or creates that row, after the row's lock: rows are always locked before the
    ledger. `view` reads the state of the cluster (cluster_view.view_for_model, view_for_workload); it is called again
    if rows changed in between. Does not raise if there is no room. The decision is
    - `placed`: the ledger has the claims, and idle models that must make room are told to stop. The row's node is
      `decision.devices[0].node_id`; `placement_json(decision)` is what an agent needs to launch it. Start it once
      memory_ledger.may_start(owner) holds; free it with memory_ledger.release(owner).
    - or not: nothing was changed. `reason_messages.decision_message(decision)` tells tenants why; `waits` means that
      there will be room once busy, new or starting instances may be evicted.
    """
    memory_ledger.lock()
    for _attempt in range(MAX_ATTEMPTS):
        decision = choose_placement(request, view())
        if not decision.placed or _try_to_claim(owner, decision):
            return decision
    wanted = frozenset(decision.claims)
    return replace(decision, option=None, devices=(), claims={}, victims=(), waits=True, wanted=wanted)


def placement_json(decision: PlacementDecision) -> dict[str, Any]:
    """What the agent needs to launch a placed one: devices, and the estimated bytes."""
    option = decision.option
    assert option is not None, "only a decision that is placed is launched"
    estimate = option.estimate
    return {
        "device_kind": option.kind,
        "device_indexes": [device.index for device in decision.devices],
        "weights": estimate.weights,
        "overhead": estimate.overhead,
        "kv_cache": estimate.kv_cache,
        "source": option.source,
        "digest": option.digest,
    }


def _try_to_claim(owner: str, decision: PlacementDecision) -> bool:
    """False if a device or a victim has changed since the snapshot."""
    victims = [victim.instance_id for victim in decision.victims]
    try:
        with transaction.atomic():
            for evicted in memory_ledger.evict(victims, stop_timeout=int(settings.GATEWAY_TOTAL_TIMEOUT)):
                transitions.publish_status(evicted)
            memory_ledger.claim(owner, decision.claims)
    except memory_ledger.NoRoom:
        return False
    return True
