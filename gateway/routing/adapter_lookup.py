"""Adapters in the data plane: which version a name means to whom, and why it may not be served.

Names of an adapter: `<name>`, `<base>:<name>`, either with `@<number>` for one version; its id and a version's id.
"""

from dataclasses import replace

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from core import errors
from gateway.routing.snapshot import AdapterEntry, InstanceEntry, ModelEntry, Principal, Snapshot, VersionEntry


def find(principal: Principal, ref: str, snapshot: Snapshot) -> ModelEntry | None:
    """What `ref` means to this caller, as a model: its base's entry with the adapter's name and version."""
    own = snapshot.adapters.get(principal.tenant_id)
    if not own:
        return None
    name, _at, number = ref.rpartition("@")
    adapter = _named(own, ref, snapshot)
    if adapter is None and number.isdecimal():
        adapter = _named(own, name, snapshot)
        return adapter and _entry(principal, adapter, _of_number(adapter, int(number[:9])), snapshot)
    if adapter is None:
        return _by_version(principal, own, ref, snapshot)
    return _entry(principal, adapter, _meant(principal, adapter), snapshot)


def visible(principal: Principal, snapshot: Snapshot) -> list[ModelEntry]:
    """Published ones by their name, those on trial as `name@number`."""
    found = []
    for adapter in snapshot.adapters.get(principal.tenant_id, {}).values():
        for version in adapter.versions:
            entry = _entry(principal, adapter, version, snapshot)
            if entry and version.on_trial:
                found.append(replace(entry, name=f"{adapter.name}@{version.number}", aliases=()))
            elif entry:
                found.append(entry)
    return found


def refusal(model: ModelEntry, entries: list[InstanceEntry]) -> errors.PlatformError | None:
    """Why waiting for the adapter is in vain: no replica that runs or comes will ever serve it."""
    if not model.adapter or any(entry.coming for entry in entries):
        return None
    running = [entry for entry in entries if entry.routable]
    if running and not any(entry.adapter_slots for entry in running):
        text = _("{base} was started without adapters: set its config.enable_lora to true and restart it.")
        return errors.Conflict(format_lazy(text, base=model.parent))
    if running and all(model.adapter in entry.refused for entry in running):
        reason = running[0].refused[model.adapter]
        return errors.EngineUnavailable(format_lazy(_("The engine refused the adapter: {reason}"), reason=reason))
    return None


def not_loaded(model: ModelEntry, entries: list[InstanceEntry]) -> errors.ModelNotRunning | None:
    """What to tell who has waited for an adapter in vain, though its base runs."""
    running = [entry for entry in entries if entry.routable]
    if not model.adapter or not running:
        return None
    text = _("The adapter is not loaded yet.")
    if all(len(entry.adapters) >= entry.adapter_slots for entry in running):
        text = _("All adapters that {base} has room for are in use: raise its config.max_cpu_loras.")
    return errors.ModelNotRunning(format_lazy(text, base=model.parent), details={"state": "loading"}, retry_after=5)


def _named(own: dict[str, AdapterEntry], ref: str, snapshot: Snapshot) -> AdapterEntry | None:
    if adapter := own.get(ref):
        return adapter
    base, colon, name = ref.rpartition(":")
    if colon and (adapter := own.get(name)):
        model = snapshot.models.get(adapter.base_id)
        return adapter if model and base in (model.name, *model.aliases) else None
    return next((each for each in own.values() if each.id == ref), None) if ref.startswith("adapter-") else None


def _by_version(principal: Principal, own: dict[str, AdapterEntry], ref: str, snapshot: Snapshot) -> ModelEntry | None:
    if not ref.startswith("version-"):
        return None
    for adapter in own.values():
        for version in adapter.versions:
            if version.id == ref:
                return _entry(principal, adapter, version, snapshot)
    return None


def _of_number(adapter: AdapterEntry, number: int) -> VersionEntry | None:
    return next((version for version in adapter.versions if version.number == number), None)


def _meant(principal: Principal, adapter: AdapterEntry) -> VersionEntry | None:
    """The version in use; of an adapter that is not published the newest one that its maker may try."""
    if adapter.current:
        return next((version for version in adapter.versions if version.id == adapter.current), None)
    return next((version for version in adapter.versions if _is_maker(principal, version)), None)


def _entry(
    principal: Principal, adapter: AdapterEntry, version: VersionEntry | None, snapshot: Snapshot
) -> ModelEntry | None:
    base = snapshot.models.get(adapter.base_id)
    if version is None or base is None or not (base.public or base.tenant_id == principal.tenant_id):
        return None
    if not _may_use(principal, adapter, version):
        return None
    return replace(
        base, tenant_id=adapter.tenant_id, name=adapter.name, aliases=(f"{base.name}:{adapter.name}",), public=False,
        created=adapter.created, adapter=version.id, adapter_id=adapter.id, parent=base.name,
    )  # fmt: skip


def _may_use(principal: Principal, adapter: AdapterEntry, version: VersionEntry) -> bool:
    """A key that is limited to some models must name the adapter, or try what it has trained of a model it names."""
    if version.on_trial and not _is_maker(principal, version):
        return False
    allowed = principal.models
    return allowed is None or adapter.id in allowed or (version.on_trial and adapter.base_id in allowed)


def _is_maker(principal: Principal, version: VersionEntry) -> bool:
    """The key that had it trained, or the person behind it: logged in, or, if no key was used, by a key of theirs."""
    if not version.on_trial:
        return False
    if principal.key_id and version.key_id:
        return principal.key_id == version.key_id
    person = principal.maker_id if principal.key_id else principal.user_id
    return person is not None and person == version.user_id
