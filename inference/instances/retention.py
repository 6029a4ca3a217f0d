"""What keeps the tables of this app in order: partitions of the usage ledger, dead gateways forgotten."""

from datetime import timedelta

from django.db.models.functions import Now

from core.partitions import Partitioned
from inference.models import GatewayHeartbeat

USAGE = Partitioned("inference_usagerecord", "started_on", keep_days=400)  # a year of bills and some more
DEAD_GATEWAY = timedelta(minutes=5)


def forget_dead_gateways() -> None:
    GatewayHeartbeat.objects.filter(beat_at__lt=Now() - DEAD_GATEWAY).delete()
