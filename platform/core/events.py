"""Tell sockets of a change, once it is durable. Events are latest-state: losing one is made good by the next."""

import logging
from functools import partial

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

OPERATORS = "operators"


def group_for(audience: str, event: str) -> str:
    """Channel-layer group of one event for one tenant id, or for OPERATORS."""
    return f"{audience}.{event}"


def publish_on_commit(tenant_id: str | None, event: str, data: dict) -> None:
    """Send `{"type": event, "data": data}` to the tenant's sockets and to operators' after the commit."""
    transaction.on_commit(partial(_send, tenant_id, event, data))


def _send(tenant_id: str | None, event: str, data: dict) -> None:
    layer = get_channel_layer()
    message = {"type": "platform.event", "event": event, "data": data}
    for audience in filter(None, (tenant_id, OPERATORS)):
        try:
            async_to_sync(layer.group_send)(group_for(audience, event), message)
        except (RedisError, OSError) as error:  # the sockets' periodic snapshot makes it good
            logger.warning("event %s not pushed: %s", event, type(error).__name__)
