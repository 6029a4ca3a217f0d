"""What gateways report about their requests. An instance may be stopped once no gateway uses it any more.

A missing heartbeat proves nothing: a gateway can serve without Postgres. It counts as busy with what it last reported,
until its process is known to have ended or its routing snapshot is too old to serve from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from core import process_identity
from inference.models import Desired, GatewayHeartbeat, Instance, InstanceState

HEARTBEAT_STALE_AFTER = timedelta(seconds=6)
HEARTBEAT_EXPIRES_AFTER = timedelta(minutes=5)  # after this no gateway serves from its last snapshot


@dataclass(frozen=True)
class AdapterUse:
    """Adapter versions of one instance: with requests in flight, idle since (in seconds), and waited for."""

    busy: set[str] = field(default_factory=set)
    idle: dict[str, float] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class GatewayReports:
    """The latest heartbeats of all gateways that may still serve, and the active instances of every model."""

    online: Sequence[GatewayHeartbeat]
    stale: Sequence[GatewayHeartbeat]
    instances: dict[str, list[Instance]]  # by model id

    @property
    def heartbeats(self) -> list[GatewayHeartbeat]:
        return [*self.online, *self.stale]

    def is_drained(self, instance: Instance) -> bool:
        """Whether every gateway has reported since the drain began, with no route to it and no request in flight."""
        return all(
            heartbeat.beat_at > instance.state_since
            and instance.pk not in heartbeat.routes
            and not heartbeat.inflight.get(instance.pk)
            for heartbeat in self.heartbeats
        )

    def is_adapter_drained(self, instance_id: str, version: str, since: datetime) -> bool:
        """The same for one adapter version on an instance, which gateways must not use since `since`."""
        return all(
            heartbeat.beat_at > since
            and version not in heartbeat.adapters.get("routes", {}).get(instance_id, ())
            and not heartbeat.adapters.get("inflight", {}).get(instance_id, {}).get(version)
            for heartbeat in self.heartbeats
        )

    def adapters_waited_for(self) -> set[str]:
        """Adapter versions that requests wait for, on any gateway."""
        return {version for heartbeat in self.heartbeats for version in heartbeat.adapters.get("waiting", ())}

    def adapter_use(self, instance_id: str) -> AdapterUse:
        use = AdapterUse(waiting=self.adapters_waited_for())
        for heartbeat in self.heartbeats:
            use.busy.update(heartbeat.adapters.get("inflight", {}).get(instance_id, ()))
            for version, seconds in heartbeat.adapters.get("idle", {}).get(instance_id, {}).items():
                use.idle[version] = min(seconds, use.idle.get(version, seconds))
        return use

    def idle_seconds(self, model_id: str) -> float | None:
        """Seconds since the model's last request ended, or since its last replica became ready.

        None while a request is in flight or waits, or a replica is not ready yet.
        """
        instances = [instance for instance in self.instances.get(model_id, []) if instance.desired == Desired.RUNNING]
        busy = any(
            heartbeat.waiting.get(model_id) or any(heartbeat.inflight.get(instance.pk) for instance in instances)
            for heartbeat in self.heartbeats
        )
        if busy or any(instance.state != InstanceState.READY for instance in instances):
            return None
        ended = [
            heartbeat.idle[instance.pk]
            for heartbeat in self.heartbeats
            for instance in instances
            if instance.pk in heartbeat.idle
        ]
        since_ready = [
            (timezone.now() - (instance.ready_at or instance.state_since)).total_seconds() for instance in instances
        ]
        return max(0.0, min([*ended, *since_ready], default=0.0))

    def in_flight(self) -> Counter[str]:
        """Requests that engines work on, by model id, as online gateways report."""
        model_of = {instance.pk: model_id for model_id, instances in self.instances.items() for instance in instances}
        counts: Counter[str] = Counter()
        for heartbeat in self.online:
            for instance_id, count in heartbeat.inflight.items():
                if instance_id in model_of:
                    counts[model_of[instance_id]] += count
        return counts

    def waiting(self) -> Counter[str]:
        """Requests that wait for a model to start, by its id."""
        return sum((Counter(heartbeat.waiting) for heartbeat in self.online), Counter())

    def pending(self) -> Counter[str]:
        return self.in_flight() + self.waiting()


def read_reports() -> GatewayReports:
    """Ages are measured on the database's clock."""
    heartbeats = GatewayHeartbeat.objects.filter(beat_at__gt=Now() - HEARTBEAT_EXPIRES_AFTER).annotate(
        age=Now() - F("beat_at")
    )
    online = [heartbeat for heartbeat in heartbeats if heartbeat.age < HEARTBEAT_STALE_AFTER]
    stale = [
        heartbeat
        for heartbeat in heartbeats
        if heartbeat.age >= HEARTBEAT_STALE_AFTER and not process_identity.has_ended(heartbeat.process)
    ]
    instances: dict[str, list[Instance]] = {}
    for instance in Instance.objects.active().only("model_id", "desired", "state", "state_since", "ready_at"):
        instances.setdefault(instance.model_id, []).append(instance)
    return GatewayReports(online, stale, instances)
