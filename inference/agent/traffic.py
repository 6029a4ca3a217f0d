"""What gateways say of their requests: an instance may be stopped when every live one has let go of it."""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models.functions import Now

from inference.models import GatewayHeartbeat, Instance

GATEWAY_SILENCE = timedelta(seconds=6)


@dataclass(frozen=True)
class Traffic:
    """The live gateways' latest words."""

    beats: list[GatewayHeartbeat]

    def drained(self, instance: Instance) -> bool:
        """Whether every gateway has spoken since the drain began, routes nothing to it and has nothing in flight."""
        return all(
            beat.beat_at > instance.state_since
            and instance.pk not in beat.routes
            and not beat.inflight.get(instance.pk)
            for beat in self.beats
        )

    def idle(self, instance: Instance, since_ready: float) -> float | None:
        """Seconds since its last request ended (or since it was ready); None while one is in flight."""
        if any(beat.inflight.get(instance.pk) for beat in self.beats):
            return None
        known = [beat.idle[instance.pk] for beat in self.beats if instance.pk in beat.idle]
        return min([*known, since_ready])


def read() -> Traffic:
    """Only gateways that spoke a moment ago, by the database's clock."""
    live = GatewayHeartbeat.objects.filter(beat_at__gt=Now() - GATEWAY_SILENCE)
    return Traffic(list(live))
