"""Every administrative action writes a record, in the transaction of the action."""

from accounts.actor import Actor
from accounts.models import AuditRecord


def record(actor: Actor, action: str, thing, *, tenant_id: str | None = None, request=None, **details) -> AuditRecord:
    """`thing` is the changed row; `details` must contain no secret."""
    return AuditRecord.objects.create(
        tenant_id=tenant_id or getattr(thing, "tenant_id", None) or (actor.tenant.pk if actor.tenant else None),
        user=actor.user,
        key=actor.key,
        actor=actor.label,
        action=action,
        object_type=type(thing).__name__,
        object_id=str(thing.pk),
        details=details,
        address=request.META.get("REMOTE_ADDR") or None if request else None,
        request_id=getattr(request, "request_id", "") if request else "",
    )
