"""manage.py first_run: creates the first tenant, account, key and models once, and prints their record every time."""

import json

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import transaction

from accounts import operators
from accounts import services as accounts
from accounts.models import Role, Scope, Tenant, User
from launcher import data_folder
from models_app import packaged_models
from models_app.models import Mode, Model

TENANT, ACCOUNT = "default", "admin"
DEMO, EMBEDDER = "serai-demo", "minilm"
RECORD_FILE = "first-run.json"
SCOPES = [scope for scope in Scope if scope != Scope.METRICS]  # all that a tenant may use


class Command(BaseCommand):
    help = "Creates the first tenant, account, key and models if there is none, and prints how to log in, as JSON."

    def add_arguments(self, parser):
        parser.add_argument("--base-url", default=settings.BASE_URL)

    def handle(self, *, base_url, **options):
        first = not Tenant.objects.exists()
        addresses = {"base_url": base_url, "console_url": f"{base_url}/console/login/"}
        record = {**addresses, **(create_first_tenant() if first else self._load_record())}
        data_folder.write(settings.DATA_DIR / RECORD_FILE, json.dumps(record, indent=2))
        operator = self._operator(record)
        link = f"{base_url}/console/enter/{accounts.one_time_link(operator)}" if operator else None
        self.stdout.write(
            json.dumps({**record, "login_link": link, "first": first, "has_operator": operator is not None})
        )

    def _load_record(self) -> dict:
        """The record of an earlier start. A careful operator may have deleted it: it holds secrets."""
        try:
            saved = json.loads((settings.DATA_DIR / RECORD_FILE).read_text())
        except (OSError, ValueError):
            saved = {}
        names = ("username", "password", "tenant", "api_key", "model")
        return {name: saved.get(name) for name in names}

    def _operator(self, record: dict) -> User | None:
        """The first account if it still is an operator's, else the oldest one. None: `manage.py operator add`."""
        active = operators.active()
        return active.filter(username=record["username"]).first() or active.first()


@transaction.atomic
def create_first_tenant() -> dict:
    """Returns the credentials; the password and the key are stored nowhere else in plain text."""
    tenant = accounts.create_tenant(slug=TENANT, name="Default")
    password = operators.new_password()
    user = User.objects.create_superuser(ACCOUNT, password=password, default_tenant=tenant)
    accounts.add_member(tenant, user, Role.OWNER)
    _key, secret = accounts.issue_key(tenant, name="first key", maker=user, role=Role.OWNER, scopes=SCOPES)
    model = Model.objects.create(
        tenant=tenant,
        name=DEMO,
        display_name="Serai demo",
        framework="vllm",
        created_by=user,
        description="A small chat model trained on a CPU: capitals, sums, JSON, tools.",
        config={"model_path": DEMO, "enable_lora": True},  # adapters trained on it are served without a restart
        tags=["demo"],
    )
    Model.objects.create(
        tenant=tenant,
        name=EMBEDDER,
        display_name="all-MiniLM-L6-v2",
        framework="vllm",
        mode=Mode.EMBEDDING,
        description="Vectors of sentences and ranking; its files (84 MB) are fetched at the first request.",
        config={"model_path": packaged_models.MINILM.name},
        tags=["demo"],
        created_by=user,
    )
    Tenant.objects.filter(pk=tenant.pk).update(default_model=model.name)
    return {"username": ACCOUNT, "password": password, "tenant": tenant.slug, "api_key": secret, "model": model.name}
