"""What gateways say of their requests: an instance may be stopped when every one of them has let go of it.

No word is no proof. A gateway that has fallen silent may go on serving without Postgres, so it counts as busy with what
it was last heard of, until its process is known to be gone or its snapshot would be too old to serve from.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from core import process_identity
from inference.models import Desired, GatewayHeartbeat, Instance, State

GATEWAY_SILENCE = timedelta(seconds=6)
GATEWAY_DEATH = timedelta(minutes=5)  # after which none serves from its last snapshot any more


@dataclass(frozen=True)
class AdapterUse:
    """Of one instance: versions with requests in flight, seconds since others had any, and what is waited for."""

    busy: set[str] = field(default_factory=set)
    idle: dict[str, float] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Traffic:
    """The latest words of all gateways that may still serve, and the active instances of every model."""

    live: list[GatewayHeartbeat]
    silent: list[GatewayHeartbeat]
    instances: dict[str, list[Instance]]  # by model id

    @property
    def beats(self) -> list[GatewayHeartbeat]:
        return self.live + self.silent

    def drained(self, instance: Instance) -> bool:
        """Whether every gateway has spoken since the drain began, routes nothing to it and has nothing in flight."""
        return all(
            beat.beat_at > instance.state_since
            and instance.pk not in beat.routes
            and not beat.inflight.get(instance.pk)
            for beat in self.beats
        )

    def let_go(self, instance_id: str, version: str, since: datetime) -> bool:
        """The same of one version of an adapter there, which nothing shall be sent to since then."""
        return all(
            beat.beat_at > since
            and version not in beat.adapters.get("routes", {}).get(instance_id, ())
            and not beat.adapters.get("inflight", {}).get(instance_id, {}).get(version)
            for beat in self.beats
        )

    def adapters_waited_for(self) -> set[str]:
        """Versions, anywhere."""
        return {version for beat in self.beats for version in beat.adapters.get("waiting", ())}

    def adapter_use(self, instance_id: str) -> AdapterUse:
        use = AdapterUse(waiting=self.adapters_waited_for())
        for beat in self.beats:
            use.busy.update(beat.adapters.get("inflight", {}).get(instance_id, ()))
            for version, seconds in beat.adapters.get("idle", {}).get(instance_id, {}).items():
                use.idle[version] = min(seconds, use.idle.get(version, seconds))
        return use

    def idle(self, model_id: str) -> float | None:
        """Seconds since the model's last request ended, or its last replica was ready.

        None while a request is in flight or waits, or a replica is still to come.
        """
        instances = [each for each in self.instances.get(model_id, []) if each.desired == Desired.RUNNING]
        busy = any(beat.waiting.get(model_id) or self._busy(beat, instances) for beat in self.beats)
        if busy or any(each.state != State.READY for each in instances):
            return None
        ended = [beat.idle[each.pk] for beat in self.beats for each in instances if each.pk in beat.idle]
        since_ready = [(timezone.now() - (each.ready_at or each.state_since)).total_seconds() for each in instances]
        return max(0.0, min([*ended, *since_ready], default=0.0))

    def in_flight(self) -> Counter[str]:
        """Requests that an engine works on, by model id, as far as gateways speak."""
        model_of = {each.pk: model_id for model_id, instances in self.instances.items() for each in instances}
        counts: Counter[str] = Counter()
        for beat in self.live:
            for instance_id, count in beat.inflight.items():
                if instance_id in model_of:
                    counts[model_of[instance_id]] += count
        return counts

    def waiting(self) -> Counter[str]:
        """Requests that wait for a model to start, by its id."""
        return sum((Counter(beat.waiting) for beat in self.live), Counter())

    def pending(self) -> Counter[str]:
        return self.in_flight() + self.waiting()

    def _busy(self, beat: GatewayHeartbeat, instances: list[Instance]) -> bool:
        return any(beat.inflight.get(each.pk) for each in instances)


def read() -> Traffic:
    """Ages are by the database's clock."""
    known = GatewayHeartbeat.objects.filter(beat_at__gt=Now() - GATEWAY_DEATH).annotate(age=Now() - F("beat_at"))
    live = [beat for beat in known if beat.age < GATEWAY_SILENCE]
    silent = [beat for beat in known if beat.age >= GATEWAY_SILENCE and not process_identity.has_ended(beat.process)]
    instances: dict[str, list[Instance]] = {}
    for instance in Instance.objects.active().only("model_id", "desired", "state", "state_since", "ready_at"):
        instances.setdefault(instance.model_id, []).append(instance)
    return Traffic(live, silent, instances)
