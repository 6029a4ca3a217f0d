"""What an engine can be asked for, and one checked request for it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from gateway.api.stream_relay import Relay, StreamRelay, Usage
from gateway.api.validators import Fields
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode


@dataclass(slots=True)
class Prepared:
    """A checked request. `show_usage` and `show_continuous` are what the client itself asked for.

    `documents` are those to be ranked, of which the reply has the `top` best (None: all), shown with their texts
    or not.
    """

    payload: dict
    stream: bool = False
    show_usage: bool = False
    show_continuous: bool = False
    choices: int = 1
    prompts: int = 1
    documents: list[str] = field(default_factory=list)
    show_documents: bool = True
    top: int | None = None

    def body(self, served_name: str) -> bytes:
        self.payload["model"] = served_name
        return orjson.dumps(self.payload)


def stream_relay(prepared: Prepared) -> Relay:
    return StreamRelay(
        show_usage=prepared.show_usage,
        show_continuous=prepared.show_continuous,
        choices=prepared.choices,
        prompts=prepared.prompts,
    )


@dataclass(slots=True, frozen=True)
class Operation:
    """A route of engines: the fields it takes, what is added to them, and how its answers are read.

    `required`: one of these fields. `complete` checks fields against each other and the model, and adds ours.
    `read` makes the client's reply out of the engine's and tells the tokens used; it raises LookupError,
    TypeError or ValueError for what is no such reply. `ours` are the fields that mark a request as its tenant's.
    `named_events`: of its streams. `optional`: engines and models may lack the route.
    """

    name: str
    engine_path: str
    fields: Fields
    required: tuple[str, ...]
    complete: Callable[[Prepared, ModelEntry], None]
    read: Callable[[dict, Prepared], tuple[dict, Usage]]
    modes: tuple[Mode, ...] = (Mode.CHAT,)
    ours: tuple[str, ...] = ("cache_salt", "user")
    relay: Callable[[Prepared], Relay] = stream_relay
    named_events: bool = False
    optional: bool = False
