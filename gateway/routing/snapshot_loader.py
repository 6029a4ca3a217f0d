"""Reads the parts of a snapshot from Postgres; lists which parts depend on which table."""

from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

from accounts.models import ROLE_RANK
from gateway.routing.snapshot import (
    AdapterEntry,
    Caller,
    InstanceEntry,
    KeyEntry,
    ModelEntry,
    TenantEntry,
    UserEntry,
    VersionEntry,
)
from inference.instances.adapters import LOADED, REFUSED
from models_app.options import SAMPLING, context_length

SAMPLING_DEFAULTS = tuple(option.name for option in SAMPLING)

TENANTS = "SELECT id, slug, default_model FROM accounts_tenant WHERE is_active"
KEYS = """
SELECT key.digest, key.id, key.tenant_id, key.role, key.scopes, key.allowed_models,
    extract(epoch FROM key.expires_at), CASE WHEN maker.is_staff THEN 'owner' ELSE member.role END, maker.id
FROM accounts_apikey AS key JOIN accounts_tenant AS tenant ON tenant.id = key.tenant_id
JOIN accounts_user AS maker ON maker.id = key.created_by_id
LEFT JOIN accounts_membership AS member ON member.user_id = maker.id AND member.tenant_id = key.tenant_id
WHERE key.revoked_at IS NULL AND tenant.is_active AND (key.expires_at IS NULL OR key.expires_at > now())
    AND maker.is_active AND (maker.is_staff OR member.id IS NOT NULL)
"""
USERS = """
SELECT person.id, person.is_staff, person.default_tenant_id,
    array_agg(member.tenant_id ORDER BY member.id), array_agg(member.role ORDER BY member.id)
FROM accounts_user AS person LEFT JOIN accounts_membership AS member ON member.user_id = person.id
WHERE person.is_active GROUP BY person.id
"""
REVOKED_SESSIONS = """
SELECT id::text FROM accounts_loginsession WHERE revoked_at > now() - make_interval(secs => %s)
"""
MODELS = """
SELECT model.id, model.tenant_id, model.name, model.visibility = 'public', model.mode,
    extract(epoch FROM model.created_at), model.config, model.wait_timeout, model.framework,
    array(SELECT alias.name FROM models_app_modelalias AS alias WHERE alias.model_id = model.id ORDER BY id)
FROM models_app_model AS model ORDER BY model.created_at, model.id
"""
INSTANCES = """
SELECT id, model_id, state, served_name, endpoint, running_generation, healthy, desired = 'running',
    extract(epoch FROM state_since), failure_reason, failure_cause, stop_reason, adapters, adapter_slots
FROM inference_instance
WHERE state IN ('pending', 'starting', 'ready', 'draining')
    OR (state IN ('failed', 'stopped') AND state_since > now() - interval '10 minutes')
"""
ADAPTERS = """
SELECT id, tenant_id, name, base_model_id, coalesce(current_id, ''), extract(epoch FROM created_at)
FROM models_app_adapter
"""
VERSIONS = """
SELECT version.adapter_id, version.id, version.number, version.published_at IS NULL, version.created_by_id,
    version.key_id
FROM models_app_adapterversion AS version JOIN models_app_adapter AS adapter ON adapter.id = version.adapter_id
WHERE version.published_at IS NULL OR version.id = adapter.current_id ORDER BY version.number DESC
"""
START_SECONDS = """
SELECT DISTINCT ON (model_id) model_id, extract(epoch FROM ready_at - started_at)
FROM inference_instance WHERE ready_at > started_at ORDER BY model_id, ready_at DESC
"""

Row = tuple[Any, ...]
Execute = Callable[..., Iterable[Row]]


def _read_tenants(execute: Execute) -> list[TenantEntry]:
    return [TenantEntry(*row) for row in execute(TENANTS)]


def _read_keys(execute: Execute) -> dict[bytes, KeyEntry]:
    found = {}
    for digest, key_id, tenant_id, role, scopes, models, expires_at, maker_role, maker_id in execute(KEYS):
        allowed = frozenset(models) if models else None
        role = min(role, maker_role, key=ROLE_RANK.__getitem__)
        caller = Caller(
            tenant_id, role, key_id=key_id, scopes=frozenset(scopes), models=allowed, created_by_id=maker_id
        )  # fmt: skip
        found[bytes(digest)] = KeyEntry(caller, None if expires_at is None else float(expires_at))
    return found


def _read_users(execute: Execute) -> list[UserEntry]:
    found = []
    for user_id, operator, default_tenant_id, tenant_ids, roles in execute(USERS):
        by_tenant = {tenant_id: role for tenant_id, role in zip(tenant_ids, roles, strict=True) if tenant_id}
        found.append(UserEntry(user_id, operator, default_tenant_id, by_tenant))
    return found


def _read_revoked_sessions(execute: Execute) -> list[str]:
    return [row[0] for row in execute(REVOKED_SESSIONS, [settings.ACCESS_TOKEN_SECONDS])]


def _read_models(execute: Execute) -> list[ModelEntry]:
    start_seconds = {model_id: float(seconds) for model_id, seconds in execute(START_SECONDS)}
    return [_model_entry(row, start_seconds.get(row[0])) for row in execute(MODELS)]


def _model_entry(row: Row, start_seconds: float | None) -> ModelEntry:
    model_id, tenant_id, name, public, mode, created, config, wait_timeout, engine, aliases = row
    context = context_length(config)
    sampling = {option: config[option] for option in SAMPLING_DEFAULTS if config.get(option) is not None}
    if context and "max_tokens" in sampling:
        sampling["max_tokens"] = min(sampling["max_tokens"], context)
    return ModelEntry(
        model_id, tenant_id, name, tuple(aliases), public, mode, int(created), context, sampling,
        wait_timeout, start_seconds, engine,
    )  # fmt: skip


def _read_instances(execute: Execute) -> list[InstanceEntry]:
    return [_instance_entry(row) for row in execute(INSTANCES)]


def _instance_entry(row: Row) -> InstanceEntry:
    instance_id, model_id, state, served_name, endpoint, generation, healthy, wanted, *details = row
    state_since, failure_reason, failure_cause, stop_reason, adapters, adapter_slots = details
    loaded = frozenset(version for version, report in adapters.items() if report["state"] == LOADED)
    refused = {version: report["reason"] for version, report in adapters.items() if report["state"] == REFUSED}
    return InstanceEntry(
        instance_id, model_id, state, served_name, endpoint, generation, healthy, wanted, float(state_since),
        failure_reason, failure_cause, stop_reason, loaded, refused, adapter_slots,
    )  # fmt: skip


def _read_adapters(execute: Execute) -> list[AdapterEntry]:
    versions: dict[str, list[VersionEntry]] = {}
    for adapter_id, *fields in execute(VERSIONS):
        versions.setdefault(adapter_id, []).append(VersionEntry(*fields))
    return [
        AdapterEntry(adapter_id, tenant_id, name, base_id, current, int(created), tuple(versions.get(adapter_id, ())))
        for adapter_id, tenant_id, name, base_id, current, created in execute(ADAPTERS)
    ]


PART_READERS = {
    "tenants": _read_tenants,
    "keys": _read_keys,
    "users": _read_users,
    "revoked_sessions": _read_revoked_sessions,
    "models": _read_models,
    "instances": _read_instances,
    "adapters": _read_adapters,
}
PARTS_BY_TABLE = {  # table → the parts to read again when it changes
    "accounts_tenant": {"tenants", "keys"},
    "accounts_apikey": {"keys"},
    "accounts_user": {"users", "keys"},
    "accounts_membership": {"users", "keys"},
    "accounts_loginsession": {"revoked_sessions"},
    "models_app_model": {"models"},
    "models_app_modelalias": {"models"},
    "models_app_adapter": {"adapters"},
    "models_app_adapterversion": {"adapters"},
    "inference_instance": {"instances"},
}
