"""From a wish for an instance to a row with its memory claimed: the placement's decision, made true in the ledger."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps

from django.conf import settings
from django.db import transaction

from accounts import configuration
from core.errors import PlatformError
from inference import decisions, ledger, snapshots, transitions, ways, wording
from inference.decisions import PLACED, REFUSED, WAITING
from inference.models import Instance
from inference.placement.choice import place as decide
from inference.placement.shapes import Decision
from models_app.models import Model

TRIES = 3


class Refused(Exception):
    """A decision that placed nothing, carried by the error that people see."""

    def __init__(self, model: Model, decision: Decision, waits: bool):
        super().__init__(model.pk)
        self.model, self.decision, self.waits = model, decision, waits


def place(model: Model, timeout: int | None, on_demand: bool, *, replica: int = 0, evict: bool = True) -> Instance:
    """Choose devices for one more instance of `model` and claim them, within the caller's transaction.

    With `evict` idle models go for it where there is no other way. Raises InsufficientResources (NoRoomYet for a
    request, which can wait for it), EngineUnavailable or InvalidRequest (the files).
    """
    request = ways.request_for(model)
    ledger.lock()
    for _try in range(TRIES):
        decision = decide(request, snapshots.take(model, evict))
        if not decision.placed:
            break
        with suppress(ledger.NoRoom):  # a victim has changed since the snapshot
            return _create(model, decision, timeout, on_demand, replica)
    waits = on_demand and (decision.waits or decision.placed)
    raise wording.refusal(decision, waits) from Refused(model, decision, waits)


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
        decisions.keep(refused.model, refused.decision, WAITING if refused.waits else REFUSED)


@transaction.atomic
def _create(model: Model, decision: Decision, timeout: int | None, on_demand: bool, replica: int) -> Instance:
    limit = configuration.current().default_model_timeout
    instance = Instance.objects.create(
        tenant_id=model.tenant_id,
        model=model,
        replica=replica,
        node_id=decision.devices[0].node_id,
        served_name=model.name,
        on_demand=on_demand,
        start_timeout=timeout or limit,
        profile=decision.way.profile,
        placement=_for_the_agent(decision),
    )
    victims = [victim.instance_id for victim in decision.victims]
    for gone in ledger.evict(victims, patience=int(settings.GATEWAY_TOTAL_TIMEOUT)):
        transitions.announce(gone)
    ledger.claim(instance, decision.claims)
    decisions.keep(model, decision, PLACED, instance)
    transitions.announce(instance)
    return instance


def _for_the_agent(decision: Decision) -> dict:
    """What the agent needs in order to launch it."""
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
