"""Who opened a socket: header, console log-in with an exact Origin, or the first message. Asked again while it lives."""

from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth import get_user_model
from django.http import HttpHeaders

from accounts.actor import Actor
from accounts.authentication import TENANT_HEADER, actor_for_credential, actor_for_user, anonymous_actor, credential_in
from accounts.models import User
from core.errors import Unauthenticated


@dataclass(frozen=True)
class Credential:
    """What was shown; `actor` reads it against the database each time, so that a revoked one ends."""

    secret: str | None = None
    user_id: str | None = None
    tenant: str | None = None

    def actor(self) -> Actor:
        """Raises Unauthenticated or NotFound."""
        if self.secret:
            return actor_for_credential(self.secret, self.tenant)
        if self.user_id:
            user: User | None = get_user_model().objects.filter(pk=self.user_id, is_active=True).first()
            if user is None:
                raise Unauthenticated
            return actor_for_user(user, self.tenant)
        actor = anonymous_actor()
        if actor is None:
            raise Unauthenticated
        return actor


def headers_of(scope) -> dict[str, str]:
    """Names in title case, as Django has them."""
    return {
        HttpHeaders.parse_header_name(f"HTTP_{name.decode('latin-1').replace('-', '_').upper()}"): value.decode(
            "latin-1"
        )
        for name, value in scope["headers"]
    }


def from_scope(scope) -> Credential | None:
    """The credential that came with the handshake, None if none did. Raises PlatformError for a broken one."""
    headers = headers_of(scope)
    tenant = headers.get(TENANT_HEADER)
    secret = credential_in({"X-API-Key": headers.get("X-Api-Key"), "Authorization": headers.get("Authorization")})
    if secret:
        return Credential(secret=secret, tenant=tenant)
    user = scope.get("user")
    if user is not None and user.is_authenticated:
        return Credential(user_id=user.pk, tenant=tenant)
    return Credential() if settings.ANONYMOUS_TENANT else None


def origin_allowed(scope) -> bool:
    """A browser says where its page comes from: only our own address and the configured origins are let in."""
    origin = headers_of(scope).get("Origin")
    if origin is None:
        return True
    host = headers_of(scope).get("Host", "")
    own = {settings.BASE_URL, f"http://{host}", f"https://{host}"} if _known_host(host) else {settings.BASE_URL}
    return origin in own | set(settings.CORS_ORIGINS)


def _known_host(host: str) -> bool:
    return host.rsplit(":", 1)[0] in settings.ALLOWED_HOSTS
