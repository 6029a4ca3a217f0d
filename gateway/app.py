"""The data plane as an ASGI application: its routes, and the objects that all requests of one process share."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from accounts import tokens
from accounts.policy import Permission
from core import errors
from core.asgi_server import AsgiScope, Receive, Send
from core.periodic import LoopSeverity, Periodic
from gateway.api.anthropic_messages import ANTHROPIC_MESSAGE, TOKEN_COUNT
from gateway.api.generation import CHAT_COMPLETION, DETOKENIZATION, TEXT_COMPLETION, TOKENIZATION
from gateway.api.openai_responses import RESPONSES
from gateway.api.operation import Operation
from gateway.api.pooling import DOCUMENT_RANKING, EMBEDDING, RERANKING, SCORING
from gateway.config import GatewayConfig
from gateway.context import GatewayContext
from gateway.errors import MethodNotAllowed
from gateway.exchange import Exchange
from gateway.json_types import JsonObject
from gateway.metering.meter import UsageSink
from gateway.responder import Responder
from gateway.routing import authentication, model_lookup
from gateway.routing.authentication import TokenVerifier, VerifyToken
from gateway.routing.requests_in_flight import LoadedAdapter, RequestTracker
from gateway.routing.snapshot import Caller, InstanceEntry, ModelEntry, RoutingSnapshot, SnapshotSource
from gateway.routing.start_queue import RequestStart, StartQueues
from gateway.upstream import EngineClient

SWEEP_INTERVAL = 1.0

OPERATIONS = {
    "/v1/chat/completions": CHAT_COMPLETION,
    "/v1/completions": TEXT_COMPLETION,
    "/v1/embeddings": EMBEDDING,
    "/v1/rerank": RERANKING,
    "/rerank": DOCUMENT_RANKING,
    "/v2/rerank": DOCUMENT_RANKING,
    "/v1/score": SCORING,
    "/v1/responses": RESPONSES,
    "/v1/messages": ANTHROPIC_MESSAGE,
    "/v1/messages/count_tokens": TOKEN_COUNT,
    "/tokenize": TOKENIZATION,
    "/detokenize": DETOKENIZATION,
}
MODEL_OPERATIONS = {
    "/generate": TEXT_COMPLETION,
    "/chat/completions": CHAT_COMPLETION,
    "/embeddings": EMBEDDING,
}
MODEL_PREFIXES = ("/api/models/", "/api/v1/models/")
MODEL_LIST_PATH = "/v1/models"


@dataclass(slots=True, frozen=True)
class InferenceRoute:
    operation: Operation
    ref: str | None = None


def find_route(path: str) -> InferenceRoute | None:
    """The inference route that a (decoded) path means; a model's name in it may contain slashes."""
    if operation := OPERATIONS.get(path):
        return InferenceRoute(operation)
    for prefix in MODEL_PREFIXES:
        if not path.startswith(prefix):
            continue
        for suffix, operation in MODEL_OPERATIONS.items():
            ref = path[len(prefix) : -len(suffix)]
            if path.endswith(suffix) and ref:
                return InferenceRoute(operation, ref)
    return None


def handles(scope: AsgiScope) -> bool:
    """Whether the data plane, not Django, answers this connection."""
    if scope["type"] != "http":
        return False
    path = scope["path"]
    return path.lstrip("/").split("/", 1)[0] == "v1" or find_route(path) is not None


class Gateway:
    """The application. `request_start(model_id)` requests an instance."""

    def __init__(
        self,
        source: SnapshotSource,
        request_start: RequestStart,
        sink: UsageSink,
        config: GatewayConfig,
        verify: VerifyToken = tokens.verify,
    ) -> None:
        self.context = GatewayContext(
            config=config,
            source=source,
            client=EngineClient(config.connect_timeout),
            traffic=RequestTracker(),
            starts=StartQueues(source, request_start, config.queue_limit),
            sink=sink,
            verify=TokenVerifier(verify),
        )
        self._active: set[tuple[Exchange, Responder]] = set()
        self._lingering: dict[Responder, tuple[int, float]] = {}  # answered, but not read: unsent bytes, since when
        self._sweeper: asyncio.Task[None] | None = None
        self._loop = Periodic("gateway clients", LoopSeverity.HIGH, SWEEP_INTERVAL)
        source.subscribe(self._on_snapshot)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        out = Responder(scope, send)
        route = find_route(out.path)
        if route and scope["method"] == "POST":
            return await self._run_exchange(out, receive, route)
        try:
            await self._answer_other(out, scope["method"], route)
        except errors.PlatformError as error:
            await out.error(error)
        except Exception:  # a bug of ours: answered in its surface's form, as for inference
            await out.error(out.report_bug())

    async def _run_exchange(self, out: Responder, receive: Receive, route: InferenceRoute) -> None:
        exchange = Exchange(self.context, out, receive, route.operation, route.ref)
        entry = (exchange, out)
        self._active.add(entry)
        try:
            await exchange.run()
        finally:
            self._active.discard(entry)
            if unsent := out.unsent():
                self._lingering[out] = (unsent, time.monotonic())

    async def _answer_other(self, out: Responder, method: str, route: InferenceRoute | None) -> None:
        listed = out.path == MODEL_LIST_PATH or out.path.startswith(MODEL_LIST_PATH + "/")
        if method == "OPTIONS" and b"access-control-request-method" in out.headers:
            await out.preflight()
        elif route or (listed and method != "GET"):
            raise MethodNotAllowed()
        elif listed:
            await out.json(await self._list_models(out))
        else:
            raise _no_route(out.path)

    async def _list_models(self, out: Responder) -> JsonObject:
        source = self.context.source
        caller = await self.context.authenticate(out.headers)
        authentication.require_permission(caller, Permission.LIST_MODELS)
        ref = out.path[len(MODEL_LIST_PATH) + 1 :]
        if not ref:
            snapshot = source.current()
            found = model_lookup.visible_models(caller, snapshot)
            return {"object": "list", "data": [_model_card(model, snapshot) for model in found]}
        find = partial(model_lookup.resolve_model, caller, ref)
        return _model_card(await source.decide(find, wait_for_changes=True), source.current())

    # --- lifecycle

    def start(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        self._loop.end()
        if self._sweeper:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        self.context.client.close()

    def describe(self) -> JsonObject:
        """The fields of the heartbeat. With a stale snapshot nothing is routed."""
        routable: list[InstanceEntry] = []
        with suppress(errors.ServiceUnavailable):
            routable = self.context.source.current().routable()
        traffic, starts = self.context.traffic, self.context.starts
        return {
            "routes": [entry.id for entry in routable],
            "inflight": traffic.instances.busy(),
            "idle": traffic.instances.idle(),
            "waiting": starts.waiting(),
            "adapters": {
                "routes": {entry.id: sorted(entry.adapters) for entry in routable if entry.adapters},
                "inflight": _group_by_instance(traffic.adapters.busy()),
                "idle": _group_by_instance(traffic.adapters.idle()),
                "waiting": starts.waiting_for_adapters(),
            },
        }

    def _on_snapshot(self, snapshot: RoutingSnapshot) -> None:
        traffic = self.context.traffic
        self.context.client.retain(snapshot.endpoints())
        routable = snapshot.routable()
        traffic.instances.retain(entry.id for entry in routable)
        traffic.adapters.retain((entry.id, version) for entry in routable for version in entry.adapters)

    async def _sweep(self) -> None:
        """Drop clients that do not read, and end requests whose key or user is no longer valid."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            with self._loop.turn():
                self._drop_clients()

    def _drop_clients(self) -> None:
        cutoff = time.monotonic() - self.context.config.send_timeout
        for exchange, out in list(self._active):
            if 0 < out.sending_since < cutoff:
                out.abandon()
                exchange.cancel()
            elif exchange.caller and not self._is_still_valid(exchange.caller):
                exchange.terminate(errors.Unauthenticated())
        self._drop_slow_readers(cutoff)

    def _drop_slow_readers(self, cutoff: float) -> None:
        for out, (unsent, since) in list(self._lingering.items()):
            left = out.unsent()
            if not left:
                del self._lingering[out]
            elif left < unsent:
                self._lingering[out] = (left, time.monotonic())
            elif since < cutoff:
                out.abandon()

    def _is_still_valid(self, caller: Caller) -> bool:
        with suppress(errors.ServiceUnavailable):
            snapshot = self.context.source.current()
            if caller.key_id:
                return caller.key_id in snapshot.key_ids
            return caller.user_id is None or caller.user_id in snapshot.users
        return True


def _no_route(path: str) -> errors.NotFound:
    text = _("There is no route {path}.")
    if path.startswith("//"):
        text = _("There is no route {path}: end the base URL without a slash.")
    return errors.NotFound(format_lazy(text, path=path[:200]))


def _model_card(model: ModelEntry, snapshot: RoutingSnapshot) -> JsonObject:
    """A model as OpenAI lists it, with its aliases; `owned_by` is the tenant's slug."""
    owner = snapshot.tenants.get(model.tenant_id)
    card: JsonObject = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": owner.slug if owner else "",
        "aliases": list(model.aliases),
    }
    if model.parent:
        card["parent"] = model.parent
    return card | ({"max_model_len": model.context} if model.context else {})


def _group_by_instance(values: Mapping[LoadedAdapter, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (instance_id, version), value in values.items():
        found.setdefault(instance_id, {})[version] = value
    return found
