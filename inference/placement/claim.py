"""Runs the placement decision and reserves the chosen memory in the ledger, in one transaction.

`place_and_claim` is for any row that needs device memory; `place_instance` uses it to create an instance of a model.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import wraps

from django.conf import settings
from django.db import transaction

from accounts import configuration
from core import ids
from core.errors import ModelNotFound, PlatformError
from inference import memory_ledger
from inference.instances import transitions
from inference.models import Instance
from inference.placement import cluster_view, decision_log, reason_messages, resource_options
from inference.placement.choice import choose_placement as decide
from inference.placement.decision_log import PLACED, REFUSED, WAITING
from inference.placement.types import ClusterView, PlacementDecision, PlacementRequest
from models_app import services as catalogue
from models_app.models import Model

MAX_ATTEMPTS = 3


class PlacementRefused(Exception):
    """A decision that placed nothing; the cause of the error that the caller gets."""

    def __init__(self, model: Model, decision: PlacementDecision, waits: bool):
        super().__init__(model.pk)
        self.model, self.decision, self.waits = model, decision, waits


@transaction.atomic
def place_and_claim(owner: str, request: PlacementRequest, look: Callable[[], ClusterView]) -> PlacementDecision:
    """Choose devices for `owner`, the id of any row that needs memory, and reserve them.

    Call it in the transaction that locks or creates that row, after the row's lock: rows are always locked before the
    ledger. `look` reads the current state (snapshots.view_for_model, view_for_workload); it is called again if rows
    changed in between. Does not raise if there is no room. The Decision:
    - `placed`: the ledger has the claims, and idle models that must make room are told to stop. The row's node is
      `decision.devices[0].node_id`; `placement_json(decision)` is what an agent needs to launch it. Start it once
      ledger.may_start(owner); free it with ledger.release(owner).
    - not placed: nothing was changed. `wording.decision_message(decision)` says why, in words for
      tenants; `waits`: there will be room once busy, new or starting instances may be evicted.
    """
    memory_ledger.lock()
    for _try in range(MAX_ATTEMPTS):
        decision = decide(request, look())
        if not decision.placed or _try_to_claim(owner, decision):
            return decision
    wanted = frozenset(decision.claims)
    return replace(decision, option=None, devices=(), claims={}, victims=(), waits=True, wanted=wanted)


def place_instance(
    model: Model, timeout: int | None, on_demand: bool, *, replica: int = 0, is_retry: bool = False
) -> Instance:
    """Create one more instance of `model` with devices reserved for it, in the caller's transaction.

    Idle models are evicted if nothing else fits; `is_retry` protects more of them (placement/eviction.py).
    Raises InsufficientResources (NoRoomYet if an on-demand start can wait), EngineUnavailable or InvalidRequest (bad
    model files).
    """
    request, owner = replace(resource_options.placement_request(model), is_retry=is_retry), ids.new_instance_id()
    decision = place_and_claim(owner, request, lambda: cluster_view.view_for_model(model))
    if decision.placed:
        return _create(owner, model, decision, timeout, on_demand, replica)
    waits = on_demand and decision.waits and not is_retry
    raise reason_messages.refusal_error(decision, waits) from PlacementRefused(model, decision, waits)


def records_refusals(verb: Callable) -> Callable:
    """Decorator for a service with its own transaction: stores its refused placement decision after the rollback."""

    @wraps(verb)
    def wrapper(*arguments, **options):
        try:
            return verb(*arguments, **options)
        except PlatformError as error:
            record_refusal(error)
            raise

    return wrapper


def record_refusal(error: PlatformError) -> None:
    """Store the placement decision that caused this error, if there is one."""
    if isinstance(error.__cause__, PlacementRefused):
        refused = error.__cause__
        with suppress(ModelNotFound), transaction.atomic():
            model = catalogue.lock(refused.model)
            decision_log.save_decision(model, refused.decision, WAITING if refused.waits else REFUSED)


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


def _create(
    pk: str, model: Model, decision: PlacementDecision, timeout: int | None, on_demand: bool, replica: int
) -> Instance:
    limit = configuration.current().default_model_timeout
    instance = Instance.objects.create(
        pk=pk,
        tenant_id=model.tenant_id,
        model=model,
        replica=replica,
        node_id=decision.devices[0].node_id,
        served_name=model.name,
        on_demand=on_demand,
        start_timeout=timeout or limit,
        profile=decision.option.profile,
        placement=placement_json(decision),
    )
    decision_log.save_decision(model, decision, PLACED, instance)
    transitions.publish_status(instance)
    return instance


def placement_json(decision: PlacementDecision) -> dict:
    """What the agent needs to launch it: devices, and the estimated bytes."""
    estimate = decision.option.estimate
    return {
        "device_kind": decision.option.kind,
        "device_indexes": [device.index for device in decision.devices],
        "weights": estimate.weights,
        "overhead": estimate.overhead,
        "kv_cache": estimate.kv_cache,
        "source": decision.option.source,
        "digest": decision.option.digest,
    }
