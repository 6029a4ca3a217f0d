"""The users of the tests: one tenant with every role, a stranger from another tenant, an operator; their clients."""

import pytest
from rest_framework.test import APIClient

from accounts import services, tokens
from accounts.models import Role, Scope, Tenant, User


class JsonClient(APIClient):
    default_format = "json"


def person(username: str, tenant: Tenant | None, role: Role | None, **fields) -> User:
    """A user without a password: hashing is slow on purpose, and few tests log in with one."""
    user = User.objects.create_user(username, default_tenant=tenant, **fields)
    if tenant and role:
        services.add_member(tenant, user, role)
    return user


@pytest.fixture
def tenant(db):
    return services.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def owner(tenant):
    return person("olivia", tenant, Role.OWNER)


@pytest.fixture
def admin(tenant):
    return person("ada", tenant, Role.ADMIN)


@pytest.fixture
def member(tenant):
    return person("max", tenant, Role.MEMBER)


@pytest.fixture
def viewer(tenant):
    return person("vera", tenant, Role.VIEWER)


@pytest.fixture
def stranger(db):
    """Owns another tenant and must never see anything of Acme."""
    return person("mallory", services.create_tenant(slug="evil", name="Evil"), Role.OWNER)


@pytest.fixture
def operator(db):
    """Runs the platform and belongs to no tenant."""
    return person("root", None, None, is_staff=True, is_superuser=True)


@pytest.fixture
def key(tenant, owner):
    """key(scopes=[…]) returns the secret of a new key of Acme."""

    def make(**fields) -> str:
        options = {"name": "test", "role": Role.OWNER, "scopes": list(Scope.values), **fields}
        _row, secret = services.issue_key(options.pop("tenant", tenant), maker=options.pop("maker", owner), **options)
        return secret

    return make


@pytest.fixture
def api():
    """api(user) or api(secret): a client with that credential; api(): a client without one."""

    def client(who: User | str | None = None, **headers) -> JsonClient:
        credential = tokens.open_session(who)["access_token"] if isinstance(who, User) else who
        if credential:
            headers["authorization"] = f"Bearer {credential}"
        return JsonClient(headers=headers)

    return client
