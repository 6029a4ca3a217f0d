"""The data plane's copy of keys, users, models and instances at one moment: in memory, never changed."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from accounts import policy
from accounts.policy import Permission
from core.errors import ModelNotFound, ServiceUnavailable, Unauthenticated
from gateway.json_types import JsonObject

MAX_SNAPSHOT_AGE = 300  # how long the data plane serves without Postgres
NOTICE_TIMEOUT, CHANGE_TIMEOUT = 0.2, 2.0  # wait for a change notification, and for the change itself

Decision = TypeVar("Decision")


@dataclass(slots=True, frozen=True)
class Caller:
    """The caller, its tenant and its rights; `scopes` or `models` of None: all that the role allows.

    An operator who named no tenant `sees_all` models, by their ids.
    """

    tenant_id: str
    role: str | None
    key_id: str | None = None
    user_id: str | None = None
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    operator: bool = False
    sees_all: bool = False
    created_by_id: str | None = None  # of a key: the user who created it

    def may(self, permission: Permission) -> bool:
        if self.scopes is not None:
            return policy.key_may(self.role, self.scopes, permission)
        return self.operator or policy.role_may(self.role, permission)


@dataclass(slots=True, frozen=True)
class KeyEntry:
    caller: Caller
    expires_at: float | None = None  # epoch seconds


@dataclass(slots=True, frozen=True)
class TenantEntry:
    id: str
    slug: str
    default_model: str = ""


@dataclass(slots=True, frozen=True)
class UserEntry:
    id: str
    operator: bool = False
    default_tenant_id: str | None = None
    roles: dict[str, str] = field(default_factory=dict)  # tenant id → role, the oldest membership first


@dataclass(slots=True, frozen=True)
class ModelEntry:
    id: str
    tenant_id: str
    name: str
    aliases: tuple[str, ...] = ()
    public: bool = False
    mode: str = "Chat"
    created: int = 0  # epoch seconds
    context: int | None = None  # tokens, prompt and answer together
    sampling: JsonObject = field(default_factory=dict)
    wait_timeout: float = 180
    start_seconds: float | None = None  # duration of the last start
    engine: str = "vllm"
    adapter: str = ""  # id of the version to request, if this is an adapter of the model
    adapter_id: str = ""
    parent: str = ""  # the name of the adapter's base

    @property
    def target(self) -> str:
        """Id of what requests wait for: the model, or one version of an adapter of it."""
        return self.adapter or self.id


@dataclass(slots=True, frozen=True)
class VersionEntry:
    """A version of an adapter that can be requested: the one in use, or one on trial."""

    id: str
    number: int
    on_trial: bool = False
    user_id: str | None = None  # who started its training
    key_id: str = ""  # and with which key, if any


@dataclass(slots=True, frozen=True)
class AdapterEntry:
    id: str
    tenant_id: str
    name: str
    base_id: str
    current: str = ""  # id of the version in use
    created: int = 0  # epoch seconds
    versions: tuple[VersionEntry, ...] = ()  # the newest first


@dataclass(slots=True, frozen=True)
class InstanceEntry:
    id: str
    model_id: str
    state: str
    served_name: str = ""
    endpoint: str = ""
    generation: int = 1
    healthy: bool = True
    wanted: bool = True  # False once its stop was requested
    state_since: float = 0.0  # epoch seconds
    failure_reason: str = ""
    failure_cause: str = ""
    stop_reason: str = ""
    adapters: frozenset[str] = frozenset()  # versions that it has loaded
    refused: dict[str, str] = field(default_factory=dict)  # version → what the engine said
    adapter_slots: int = 0

    def serves(self, model: ModelEntry) -> bool:
        return self.routable and (not model.adapter or model.adapter in self.adapters)

    @property
    def routable(self) -> bool:
        return self.state == "ready" and self.wanted and bool(self.endpoint)

    @property
    def starting(self) -> bool:
        return self.state in ("pending", "starting") and self.wanted

    @property
    def expected(self) -> bool:
        """It serves or will serve: while draining, it may be restarting."""
        return self.state in ("pending", "starting", "ready", "draining") and self.wanted

    @property
    def stopped_by_user(self) -> bool:
        """A user stopped it: the platform's own stops have a reason."""
        return self.state != "failed" and not self.wanted and not self.stop_reason


class RoutingSnapshot:
    """Lookups by key digest, user, tenant, model id and name. Built once, then only read."""

    __slots__ = (
        "adapters", "instances", "key_ids", "keys", "models", "names", "public", "revoked_sessions", "slugs", "tenants",
        "users",
    )  # fmt: skip

    def __init__(
        self,
        *,
        tenants: Iterable[TenantEntry] = (),
        keys: dict[bytes, KeyEntry] | None = None,
        users: Iterable[UserEntry] = (),
        revoked_sessions: Iterable[str] = (),
        models: Iterable[ModelEntry] = (),
        instances: Iterable[InstanceEntry] = (),
        adapters: Iterable[AdapterEntry] = (),
    ) -> None:
        self.tenants = {tenant.id: tenant for tenant in tenants}
        self.slugs = {tenant.slug: tenant for tenant in self.tenants.values()}
        self.keys = keys or {}
        self.key_ids = frozenset(entry.caller.key_id for entry in self.keys.values())
        self.users = {user.id: user for user in users}
        self.revoked_sessions = frozenset(revoked_sessions)
        self.models = {model.id: model for model in models}
        self.names: dict[str, dict[str, ModelEntry]] = {}
        self.public: dict[str, ModelEntry] = {}
        self._index_names()
        self.instances: dict[str, list[InstanceEntry]] = {}
        for instance in instances:
            self.instances.setdefault(instance.model_id, []).append(instance)
        self.adapters: dict[str, dict[str, AdapterEntry]] = {}  # tenant id → name → adapter
        for adapter in adapters:
            self.adapters.setdefault(adapter.tenant_id, {})[adapter.name] = adapter

    def _index_names(self) -> None:
        """Names take precedence over aliases, among a tenant's models and among public ones."""
        for model in self.models.values():
            self.names.setdefault(model.tenant_id, {})[model.name] = model
            if model.public:
                self.public.setdefault(model.name, model)
        for model in self.models.values():
            for alias in model.aliases:
                self.names[model.tenant_id].setdefault(alias, model)
                if model.public:
                    self.public.setdefault(alias, model)

    def of_model(self, model_id: str) -> list[InstanceEntry]:
        return self.instances.get(model_id, [])

    def routable(self) -> list[InstanceEntry]:
        return [entry for entries in self.instances.values() for entry in entries if entry.routable]

    def endpoints(self) -> set[str]:
        return {entry.endpoint for entries in self.instances.values() for entry in entries if entry.endpoint}


class SnapshotSource:
    """The latest snapshot, with waiting for the next one. For the event loop's thread only."""

    def __init__(self, snapshot: RoutingSnapshot | None = None) -> None:
        self._current, self._read_at = snapshot, time.monotonic()
        self._listeners: list[Callable[[RoutingSnapshot], None]] = []
        self._next: asyncio.Future[None] | None = None
        self._expecting = False

    def current(self) -> RoutingSnapshot:
        """Raises ServiceUnavailable if there is none, or only a stale one."""
        snapshot = self._current
        if snapshot is None or not self.is_fresh():
            raise ServiceUnavailable(retry_after=5)
        return snapshot

    def is_fresh(self) -> bool:
        return self._current is not None and time.monotonic() - self._read_at <= MAX_SNAPSHOT_AGE

    def expect(self) -> None:
        """A change was announced, and is being read."""
        self._expecting = True

    def publish(self, snapshot: RoutingSnapshot) -> None:
        self._current, self._read_at = snapshot, time.monotonic()
        self._expecting = False
        for listener in self._listeners:
            listener(snapshot)
        if self._next:
            self._next.set_result(None)
            self._next = None

    def subscribe(self, listener: Callable[[RoutingSnapshot], None]) -> None:
        self._listeners.append(listener)

    async def decide(self, decide: Callable[[RoutingSnapshot], Decision], *, wait_for_changes: bool) -> Decision:
        """`decide(snapshot)`; with `wait_for_changes`, an unknown key or model is looked up again in the next ones.

        A key or model can be so new that its notification has not arrived yet.
        """
        started_at = time.monotonic()
        while True:
            try:
                return decide(self.current())
            except (Unauthenticated, ModelNotFound):
                left = started_at + (CHANGE_TIMEOUT if self._expecting else NOTICE_TIMEOUT) - time.monotonic()
                if not wait_for_changes or left <= 0:
                    raise
            await self.wait_for_next(left)

    async def wait_for_next(self, timeout: float) -> None:
        """Wait until the next snapshot is published, at most `timeout` seconds."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._next)
