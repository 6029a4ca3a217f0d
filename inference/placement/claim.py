"""Runs the placement decision and reserves the chosen memory in the ledger, in one transaction.

`settle` is for any row that needs device memory; `place` uses it to create an instance of a model.
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
from inference.placement.choice import place as decide
from inference.placement.decision_log import PLACED, REFUSED, WAITING
from inference.placement.types import Decision, PlacementRequest, Snapshot
from models_app import services as catalogue
from models_app.models import Model

TRIES = 3


class Refused(Exception):
    """A decision that placed nothing; the cause of the error that the caller gets."""

    def __init__(self, model: Model, decision: Decision, waits: bool):
        super().__init__(model.pk)
        self.model, self.decision, self.waits = model, decision, waits


@transaction.atomic
def settle(owner: str, request: PlacementRequest, look: Callable[[], Snapshot]) -> Decision:
    """Choose devices for `owner`, the id of any row that needs memory, and reserve them.

    Call it in the transaction that locks or creates that row, after the row's lock: rows are always locked before the
    ledger. `look` reads the current state (snapshots.take, snapshots.for_work); it is called again if rows
    changed in between. Does not raise if there is no room. The Decision:
    - `placed`: the ledger has the claims, and idle models that must make room are told to stop. The row's node is
      `decision.devices[0].node_id`; `where(decision)` is what an agent needs to launch it. Start it once
      ledger.may_start(owner); free it with ledger.release(owner).
    - not placed: nothing was changed. `wording.summary(decision)` says why, in words for tenants; `waits`: there will
      be room once busy, new or starting instances may be evicted.
    """
    memory_ledger.lock()
    for _try in range(TRIES):
        decision = decide(request, look())
        if not decision.placed or _try_to_claim(owner, decision):
            return decision
    wanted = frozenset(decision.claims)
    return replace(decision, way=None, devices=(), claims={}, victims=(), waits=True, wanted=wanted)


def place(model: Model, timeout: int | None, on_demand: bool, *, replica: int = 0, standing: bool = False) -> Instance:
    """Create one more instance of `model` with devices reserved for it, in the caller's transaction.

    Idle models are evicted if nothing else fits; `standing` (a retry) protects more of them (placement/eviction.py).
    Raises InsufficientResources (NoRoomYet if an on-demand start can wait), EngineUnavailable or InvalidRequest (bad
    model files).
    """
    request, owner = replace(resource_options.request_for(model), standing=standing), ids.new_instance_id()
    decision = settle(owner, request, lambda: cluster_view.take(model))
    if decision.placed:
        return _create(owner, model, decision, timeout, on_demand, replica)
    waits = on_demand and decision.waits and not standing
    raise reason_messages.refusal(decision, waits) from Refused(model, decision, waits)


def keeps_refusals(verb: Callable) -> Callable:
    """Decorator for a service with its own transaction: stores its refused placement decision after the rollback."""

    @wraps(verb)
    def wrapper(*arguments, **options):
        try:
            return verb(*arguments, **options)
        except PlatformError as error:
            note(error)
            raise

    return wrapper


def note(error: PlatformError) -> None:
    """Store the placement decision that caused this error, if there is one."""
    if isinstance(error.__cause__, Refused):
        refused = error.__cause__
        with suppress(ModelNotFound), transaction.atomic():
            model = catalogue.lock(refused.model)
            decision_log.keep(model, refused.decision, WAITING if refused.waits else REFUSED)


def _try_to_claim(owner: str, decision: Decision) -> bool:
    """False if a device or a victim has changed since the snapshot."""
    victims = [victim.instance_id for victim in decision.victims]
    try:
        with transaction.atomic():
            for evicted in memory_ledger.evict(victims, patience=int(settings.GATEWAY_TOTAL_TIMEOUT)):
                transitions.announce(evicted)
            memory_ledger.claim(owner, decision.claims)
    except memory_ledger.NoRoom:
        return False
    return True


def _create(pk: str, model: Model, decision: Decision, timeout: int | None, on_demand: bool, replica: int) -> Instance:
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
        profile=decision.way.profile,
        placement=where(decision),
    )
    decision_log.keep(model, decision, PLACED, instance)
    transitions.announce(instance)
    return instance


def where(decision: Decision) -> dict:
    """What the agent needs to launch it: devices, and the estimated bytes."""
    estimate = decision.way.estimate
    return {
        "device_kind": decision.way.kind,
        "device_indexes": [device.index for device in decision.devices],
        "weights": estimate.weights,
        "overhead": estimate.overhead,
        "kv_cache": estimate.kv_cache,
        "source": decision.way.source,
        "digest": decision.way.digest,
    }
