"""LoRA adapters in the data plane: which version a name means for a caller, and why it cannot be served.

Names of an adapter: `<name>`, `<base>:<name>`, either with `@<number>` for one version; its id and a version's id.
"""

from dataclasses import replace

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.routing.snapshot import AdapterEntry, Caller, InstanceEntry, ModelEntry, RoutingSnapshot, VersionEntry


def find_adapter(caller: Caller, ref: str, snapshot: RoutingSnapshot) -> ModelEntry | None:
    """The adapter that `ref` names for this caller, as a model: its base's entry with its own name and version."""
    own = snapshot.adapters.get(caller.tenant_id)
    if not own:
        return None
    name, _separator, number = ref.rpartition("@")
    adapter = _find_by_name(own, ref, snapshot)
    if adapter is None and number.isdecimal():
        adapter = _find_by_name(own, name, snapshot)
        if adapter is None:
            return None
        return _as_model(caller, adapter, _version_by_number(adapter, int(number[:9])), snapshot)
    if adapter is None:
        return _find_by_version_id(caller, own, ref, snapshot)
    return _as_model(caller, adapter, _default_version(caller, adapter), snapshot)


def is_own_name(caller: Caller, ref: str, snapshot: RoutingSnapshot) -> bool:
    """Whether the caller's tenant has an adapter of this name, which hides a public model of the same name."""
    return ref in snapshot.adapters.get(caller.tenant_id, ())


def visible_adapters(caller: Caller, snapshot: RoutingSnapshot) -> list[ModelEntry]:
    """Adapters that the caller may use: published ones by name, versions on trial as `name@number`."""
    found = []
    for adapter in snapshot.adapters.get(caller.tenant_id, {}).values():
        for version in adapter.versions:
            entry = _as_model(caller, adapter, version, snapshot)
            if entry and version.on_trial:
                found.append(replace(entry, name=f"{adapter.name}@{version.number}", aliases=()))
            elif entry:
                found.append(entry)
    return found


def unservable_error(model: ModelEntry, entries: list[InstanceEntry]) -> errors.PlatformError | None:
    """The error if no running or starting replica can ever serve the adapter, so that waiting is useless."""
    if not model.adapter or any(entry.starting for entry in entries):
        return None
    running = [entry for entry in entries if entry.routable]
    if running and not any(entry.adapter_slots for entry in running):
        text = _("{base} was started without adapters: set its config.enable_lora to true and restart it.")
        return errors.Conflict(format_lazy(text, base=model.parent))
    if running and all(model.adapter in entry.refused for entry in running):
        reason = running[0].refused[model.adapter]
        return errors.EngineUnavailable(format_lazy(_("The engine refused the adapter: {reason}"), reason=reason))
    return None


def not_loaded_error(model: ModelEntry, entries: list[InstanceEntry]) -> errors.ModelNotRunning | None:
    """The error for a request that waited too long for an adapter although its base model runs."""
    running = [entry for entry in entries if entry.routable]
    if not model.adapter or not running:
        return None
    text = _("The adapter is not loaded yet.")
    if all(len(entry.adapters) >= entry.adapter_slots for entry in running):
        text = _("All adapters that {base} has room for are in use: raise its config.max_cpu_loras.")
    return errors.ModelNotRunning(format_lazy(text, base=model.parent), details={"state": "loading"}, retry_after=5)


def _find_by_name(own: dict[str, AdapterEntry], ref: str, snapshot: RoutingSnapshot) -> AdapterEntry | None:
    if adapter := own.get(ref):
        return adapter
    base, colon, name = ref.rpartition(":")
    if colon and (adapter := own.get(name)):
        model = snapshot.models.get(adapter.base_id)
        return adapter if model and base in (model.name, *model.aliases) else None
    if not ref.startswith("adapter-"):
        return None
    return next((adapter for adapter in own.values() if adapter.id == ref), None)


def _find_by_version_id(
    caller: Caller, own: dict[str, AdapterEntry], ref: str, snapshot: RoutingSnapshot
) -> ModelEntry | None:
    if not ref.startswith("version-"):
        return None
    for adapter in own.values():
        for version in adapter.versions:
            if version.id == ref:
                return _as_model(caller, adapter, version, snapshot)
    return None


def _version_by_number(adapter: AdapterEntry, number: int) -> VersionEntry | None:
    return next((version for version in adapter.versions if version.number == number), None)


def _default_version(caller: Caller, adapter: AdapterEntry) -> VersionEntry | None:
    """The version in use; for an unpublished adapter, the newest version that the caller had trained."""
    if adapter.current:
        return next((version for version in adapter.versions if version.id == adapter.current), None)
    return next((version for version in adapter.versions if _is_creator(caller, version)), None)


def _as_model(
    caller: Caller, adapter: AdapterEntry, version: VersionEntry | None, snapshot: RoutingSnapshot
) -> ModelEntry | None:
    base = snapshot.models.get(adapter.base_id)
    if version is None or base is None or not (base.public or base.tenant_id == caller.tenant_id):
        return None
    if not _may_use(caller, adapter, version):
        return None
    return replace(
        base, tenant_id=adapter.tenant_id, name=adapter.name, aliases=(f"{base.name}:{adapter.name}",), public=False,
        created=adapter.created, adapter=version.id, adapter_id=adapter.id, parent=base.name,
    )  # fmt: skip


def _may_use(caller: Caller, adapter: AdapterEntry, version: VersionEntry) -> bool:
    """A key limited to some models must list the adapter or, for a version that it had trained, the base model."""
    if version.on_trial and not _is_creator(caller, version):
        return False
    allowed = caller.models
    return allowed is None or adapter.id in allowed or (version.on_trial and adapter.base_id in allowed)


def _is_creator(caller: Caller, version: VersionEntry) -> bool:
    """Whether the caller had it trained: with the same key or, where a key is missing, as the same user."""
    if not version.on_trial:
        return False
    if caller.key_id and version.key_id:
        return caller.key_id == version.key_id
    user_id = caller.created_by_id if caller.key_id else caller.user_id
    return user_id is not None and user_id == version.user_id
