"""From a wish to a row with its memory claimed: the placement's decision, made true in the ledger.

`settle` is for whatever needs device memory; `place` is what instances make of it.
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
    """A decision that placed nothing, carried by the error that people see."""

    def __init__(self, model: Model, decision: Decision, waits: bool):
        super().__init__(model.pk)
        self.model, self.decision, self.waits = model, decision, waits


@transaction.atomic
def settle(owner: str, request: PlacementRequest, look: Callable[[], Snapshot]) -> Decision:
    """Choose devices for `owner`, the id of any row that needs memory, and claim them.

    Belongs into the transaction that locks or makes that row, after its lock (rows first, the ledger last). Takes the
    ways to run it, the best first, and how to look at things (snapshots.take, snapshots.for_work), which is done again
    where somebody else was faster. Never raises for want of room; of the Decision:
    - `placed`: the claims are in the ledger, and idle models that had to go for them are asked to. The row's node is
      `decision.devices[0].node_id`, and `where(decision)` is what an agent needs to launch it. To be started once
      ledger.may_start(owner); given back by ledger.release(owner).
    - not placed: nothing was changed. `wording.summary(decision)` says why in a sentence for tenants; `waits` means
      that there will be room once what is busy, young or starting may go.
    """
    memory_ledger.lock()
    for _try in range(TRIES):
        decision = decide(request, look())
        if not decision.placed or _is_claimed(owner, decision):
            return decision
    wanted = frozenset(decision.claims)
    return replace(decision, way=None, devices=(), claims={}, victims=(), waits=True, wanted=wanted)


def place(model: Model, timeout: int | None, on_demand: bool, *, replica: int = 0, standing: bool = False) -> Instance:
    """Choose devices for one more instance of `model` and claim them, within the caller's transaction.

    Idle models go for it where there is no other way, fewer for a `standing` wish (placement/eviction.py). Raises
    InsufficientResources (NoRoomYet for a request, which can wait for it), EngineUnavailable or InvalidRequest (the
    files).
    """
    request, owner = replace(resource_options.request_for(model), standing=standing), ids.new_instance_id()
    decision = settle(owner, request, lambda: cluster_view.take(model))
    if decision.placed:
        return _create(owner, model, decision, timeout, on_demand, replica)
    waits = on_demand and decision.waits and not standing
    raise reason_messages.refusal(decision, waits) from Refused(model, decision, waits)


def keeps_refusals(verb: Callable) -> Callable:
    """Around a verb with a transaction of its own: what it decided in vain is written down after the rollback."""

    @wraps(verb)
    def wrapper(*arguments, **options):
        try:
            return verb(*arguments, **options)
        except PlatformError as error:
            note(error)
            raise

    return wrapper


def note(error: PlatformError) -> None:
    """Keep the decision behind it, if there is one."""
    if isinstance(error.__cause__, Refused):
        refused = error.__cause__
        with suppress(ModelNotFound), transaction.atomic():
            model = catalogue.lock(refused.model)
            decision_log.keep(model, refused.decision, WAITING if refused.waits else REFUSED)


def _is_claimed(owner: str, decision: Decision) -> bool:
    """False where a victim has changed since the snapshot."""
    victims = [victim.instance_id for victim in decision.victims]
    try:
        with transaction.atomic():
            for gone in memory_ledger.evict(victims, patience=int(settings.GATEWAY_TOTAL_TIMEOUT)):
                transitions.announce(gone)
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
    """What the agent needs in order to launch it: devices, and bytes as they were estimated."""
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
