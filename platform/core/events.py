"""Publish changes to sockets after commit. An event carries the latest state, so the next one replaces a lost one.

A message on the channel is a header line (audiences, name, key, model) and the text that sockets get. The text is
encoded here, once for all sockets.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from django.db import transaction

from core import broker

logger = logging.getLogger(__name__)

CHANNEL = "serai.events"
OPERATORS, EVERYONE = "operators", "everyone"


@dataclass(frozen=True)
class SocketEvent:
    """`key` names the object among events of one name: if two wait for a slow reader, it gets only the later one.

    `model` is the id of the model concerned, if there is one: some callers may see only some models.
    """

    audiences: frozenset[str]  # tenant ids, OPERATORS, EVERYONE
    name: str
    key: str
    text: str
    model: str = ""


def publish_on_commit(
    tenant_id: str | None, event: str, data: Mapping[str, Any], *, key: str = "", model: str = "", public: bool = False
) -> None:
    """Send `{"type": event, "data": data}` to the tenant's and the operators' sockets; if `public`, to all."""
    audiences = [OPERATORS, *filter(None, [tenant_id]), *([EVERYONE] if public else [])]
    transaction.on_commit(partial(publish_now, audiences, event, key, data, model))


def publish_now(audiences: list[str], event: str, key: str, data: Mapping[str, Any], model: str = "") -> None:
    """Publish now. Without a broker nothing is sent; the sockets' snapshots correct it later."""
    try:
        broker.client().publish(CHANNEL, encode(audiences, event, key, data, model))
    except broker.UNAVAILABLE as error:
        logger.warning("event %s not pushed: %s", event, type(error).__name__)


def encode(audiences: list[str], event: str, key: str, data: Mapping[str, Any], model: str) -> bytes:
    return orjson.dumps([audiences, event, key, model]) + b"\n" + orjson.dumps({"type": event, "data": data})


def decode(message: bytes) -> SocketEvent:
    head, _newline, text = message.partition(b"\n")
    audiences, name, key, model = orjson.loads(head)
    return SocketEvent(frozenset(audiences), name, key, text.decode(), model)
