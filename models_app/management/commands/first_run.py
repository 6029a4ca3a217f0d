"""manage.py first_run: creates the first tenant, account, key and models once, and prints their record every time.

The password and the key stay in the record's file. They are printed only when they were just made, and only for a
terminal: the output of a service or a container is kept in logs.
"""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
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
SECRETS = ("password", "api_key")
SCOPES = [scope for scope in Scope if scope != Scope.METRICS]  # all that a tenant may use


class Command(BaseCommand):
    help = "Creates the first tenant, account, key and models if there is none, and prints how to log in, as JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--base-url", default=settings.BASE_URL)
        parser.add_argument(
            "--with-secrets",
            action="store_true",
            help="print a new password, a new key and a log-in link also where the output is no terminal",
        )

    def handle(self, *, base_url: str, with_secrets: bool, **options: Any) -> None:
        first = not Tenant.objects.exists()
        file = settings.DATA_DIR / RECORD_FILE
        addresses = {"base_url": base_url, "console_url": f"{base_url}/console/login/"}
        record = {**addresses, **(create_first_tenant() if first else load_record(file))}
        data_folder.write(file, json.dumps(record, indent=2))
        operator = find_operator(record)
        told = {**record, "first": first, "has_operator": operator is not None, "login_link": None}
        told["record_file"] = str(file) if any(record[name] for name in SECRETS) else None
        shown = with_secrets or self.stdout.isatty()
        if not (shown and first):
            told |= dict.fromkeys(SECRETS)
        if shown and operator:
            told["login_link"] = f"{base_url}/console/enter/{accounts.one_time_link(operator)}"
        self.stdout.write(json.dumps(told))


def load_record(file: Path) -> dict:
    """The record of an earlier start. A careful operator may have deleted it: it holds secrets."""
    try:
        saved = json.loads(file.read_text())
    except (OSError, ValueError):
        saved = {}
    names = ("username", "password", "tenant", "api_key", "model")
    return {name: saved.get(name) for name in names}


def find_operator(record: dict) -> User | None:
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
