"""An operation that engines offer, and one checked request for it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from gateway.api.stream_relay import Relay, StreamRelay, TokenUsage
from gateway.api.validators import Fields
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode


@dataclass(slots=True)
class PreparedRequest:
    """A checked request. `show_usage` and `show_continuous`: whether the client itself requested these counts.

    `documents` are to be ranked; the reply has the `top` best ones (None: all), with their texts if
    `show_documents`. `ignored` are the fields of the client's body that were left out.
    """

    payload: JsonObject
    stream: bool = False
    show_usage: bool = False
    show_continuous: bool = False
    choices: int = 1
    prompts: int = 1
    documents: list[str] = field(default_factory=list)
    show_documents: bool = True
    top: int | None = None
    ignored: list[str] = field(default_factory=list)

    def body(self, served_name: str) -> bytes:
        self.payload["model"] = served_name
        return orjson.dumps(self.payload)


def stream_relay(prepared: PreparedRequest) -> Relay:
    return StreamRelay(
        show_usage=prepared.show_usage,
        show_continuous=prepared.show_continuous,
        choices=prepared.choices,
        prompts=prepared.prompts,
    )


@dataclass(slots=True, frozen=True)
class Operation:
    """A route of engines: the fields it accepts, those that are added, and how its replies are read.

    `required`: at least one of these fields. `complete` checks fields against each other and the model, and adds
    ours. `read` converts the engine's reply into the client's and returns the tokens used; it raises LookupError,
    TypeError or ValueError for a reply of another form. `tenant_fields` mark a request as its tenant's.
    `named_events`: its streams have them. `optional`: engines and models may lack the route.
    """

    name: str
    engine_path: str
    fields: Fields
    required: tuple[str, ...]
    complete: Callable[[PreparedRequest, ModelEntry], None]
    read: Callable[[JsonObject, PreparedRequest], tuple[JsonObject, TokenUsage]]
    modes: tuple[Mode, ...] = (Mode.CHAT,)
    tenant_fields: tuple[str, ...] = ("cache_salt", "user")
    relay: Callable[[PreparedRequest], Relay] = stream_relay
    named_events: bool = False
    optional: bool = False
