"""LoRA adapters in a running product, made as a training job would have left them."""

import json
import uuid

from tests.support import adapter_files
from tests.support.live_product import LiveProduct

SAVE_VERSION = """
import json
from pathlib import Path
from accounts.models import Tenant
from models_app.adapters.services import Origin, save_version
from models_app.models import Model
fields = json.loads({fields!r})
tenant = Tenant.objects.get(slug=fields["tenant"])
base = Model.objects.get(tenant=tenant, name=fields["base"])
origin = Origin(key_id=fields["key"])
folder = Path(fields["folder"])
print(save_version(tenant=tenant, base_model=base, name=fields["name"], folder=folder, origin=origin).pk)
"""


def save_version(
    product: LiveProduct,
    tenant: str,
    base: str,
    name: str,
    *,
    key: str = "",
    make=adapter_files.write_folder,
    **options,
) -> str:
    """Save a new version of the adapter `name`, trained for the key `key`; `make` writes its files. Returns its id."""
    source = make(product.data / "tenants" / tenant / "training" / uuid.uuid4().hex / "adapter", **options)
    fields = json.dumps({"tenant": tenant, "base": base, "name": name, "folder": str(source), "key": key})
    return run_code(product, SAVE_VERSION.format(fields=fields))


def run_code(product: LiveProduct, code: str) -> str:
    """Run Python code with the product's database. Returns the last line of its output."""
    return product.manage("shell", "--no-imports", "-c", code).strip().splitlines()[-1]
