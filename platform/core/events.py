"""Tell sockets of a change, once it is durable. Events are latest-state: losing one is made good by the next.

A message on the channel is a line that says for whom and about what, and the text that sockets get. The text is
encoded here, once, however many sockets it goes to.
"""

import logging
from dataclasses import dataclass
from functools import partial

import orjson
from django.db import transaction

from core import broker

logger = logging.getLogger(__name__)

CHANNEL = "serai.events"
OPERATORS, EVERYONE = "operators", "everyone"


@dataclass(frozen=True)
class Event:
    """`key` names the object within events of one name: of two that wait for a slow reader, the later counts.

    `model` is the id of the model that it is about, if it is about one: some may hear of some models only.
    """

    audiences: frozenset[str]  # tenant ids, OPERATORS, EVERYONE
    name: str
    key: str
    text: str
    model: str = ""


def publish_on_commit(
    tenant_id: str | None, event: str, data: dict, *, key: str = "", model: str = "", public: bool = False
) -> None:
    """Send `{"type": event, "data": data}` to the tenant's sockets, to operators', if `public` to all."""
    audiences = [OPERATORS, *filter(None, [tenant_id]), *([EVERYONE] if public else [])]
    transaction.on_commit(partial(send, audiences, event, key, data, model))


def send(audiences: list[str], event: str, key: str, data: dict, model: str = "") -> None:
    """At once. Without a broker nothing is sent: the sockets' snapshots make it good."""
    try:
        broker.client().publish(CHANNEL, encode(audiences, event, key, data, model))
    except broker.UNAVAILABLE as error:
        logger.warning("event %s not pushed: %s", event, type(error).__name__)


def encode(audiences: list[str], event: str, key: str, data: dict, model: str) -> bytes:
    return orjson.dumps([audiences, event, key, model]) + b"\n" + orjson.dumps({"type": event, "data": data})


def decode(message: bytes) -> Event:
    head, _newline, text = message.partition(b"\n")
    audiences, name, key, model = orjson.loads(head)
    return Event(frozenset(audiences), name, key, text.decode(), model)
