"""manage.py model: adds weights from a local folder or the hub to a tenant's catalogue, and lists the catalogue."""

from contextlib import contextmanager
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from accounts.actor import Actor
from accounts.models import Role, Tenant
from core.errors import PlatformError
from engines import huggingface
from models_app import artefacts, intake, model_runtime, services
from models_app.models import Model

DEFAULT_TENANT = "default"
STEP = 10  # per cent between two progress lines


class Command(BaseCommand):
    help = "Add a model from a local folder or by its hub id (model add), or show the catalogue (model list)."

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        adding = actions.add_parser("add", help="Bring weights into a tenant's folder and its catalogue.")
        adding.add_argument("source", help="A folder with safetensors, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct.")
        adding.add_argument("--name", help="By default the last part of the source.")
        adding.add_argument("--tenant", default=DEFAULT_TENANT, help=f"Its slug; by default {DEFAULT_TENANT}.")
        listing = actions.add_parser("list", help="One line for each model.")
        listing.add_argument("--tenant", help="Only this tenant's.")

    def handle(self, *, action, tenant, source=None, name=None, **options):
        if action == "list":
            self._list(tenant)
        else:
            self._add(find_tenant(tenant), source, name)

    def _list(self, slug: str | None) -> None:
        rows = Model.objects.select_related("tenant").order_by("tenant__slug", "name")
        models = list(rows.filter(tenant=find_tenant(slug)) if slug else rows)
        statuses = model_runtime.get_runtime().statuses(models)
        for model in models:
            files = model.config.get("model_path") or model.config.get("model_name") or "-"
            self.stdout.write(f"{model.tenant.slug}\t{model.name}\t{statuses[model.pk]['status']}\t{files}")

    def _add(self, tenant: Tenant, source: str, name: str | None) -> None:
        folder = Path(source)
        from_hub = not folder.is_dir()
        if from_hub and not huggingface.HUB_ID.fullmatch(source):
            raise CommandError(f"{source} is neither a folder here nor a hub id (owner/name).")
        place = source if from_hub else folder.resolve().name
        with explained():
            services.require_free_name(tenant, name or Path(place).name)
            with intake.import_folder(tenant, place) as draft:
                self._fetch(source, draft) if from_hub else self._copy(folder, draft)
            model = create(tenant, name or Path(place).name, place)
        self.stdout.write(f"{model.name} is in the catalogue of {tenant.slug}: {model.pk}")

    def _fetch(self, hub_id: str, draft: Path) -> None:
        self.stdout.write(f"fetching {hub_id}")
        huggingface.download(hub_id, draft)

    def _copy(self, folder: Path, draft: Path) -> None:
        # Fail before copying gigabytes. An operator's own folder may contain links, as the hub's cache does.
        artefacts.inspect(folder, root=Path("/"))
        printed = -STEP

        def report(copied: int, total: int) -> None:
            nonlocal printed
            percent = 100 * copied // total
            if percent >= printed + STEP or percent == 100 > printed:
                printed = percent
                self.stdout.write(f"copied {percent} % of {total / 10**6:.1f} MB")

        intake.copy_folder(folder, draft, report)


def find_tenant(slug: str) -> Tenant:
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise CommandError(f"There is no tenant {slug}.")
    return tenant


def create(tenant: Tenant, name: str, place: str) -> Model:
    actor = Actor(tenant, Role.OWNER, is_operator=True)
    artefact = artefacts.inspect(artefacts.locate(tenant, place))
    framework = next(engine for engine, format in artefacts.ENGINE_FORMATS.items() if format == artefact.format)
    model, _warnings = services.create(actor, {"name": name, "framework": framework, "config": {"model_path": place}})
    return model


@contextmanager
def explained():
    """Turns errors of names, files, the hub or the disk into one line for the operator."""
    try:
        yield
    except PlatformError as error:
        raise CommandError(" ".join([str(error.message), *map(str, error.details.values())])) from error
    except (huggingface.HubDownloadError, OSError) as error:
        raise CommandError(str(error)) from error
