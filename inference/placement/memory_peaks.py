"""What ways to run a model were seen to take at most on one device, so that the next start claims that."""

import hashlib
import json

from django.db.models.functions import Greatest

from engines.base import Estimate
from inference.models import Instance, MemoryPeak
from models_app.models import Model

MEANINGLESS = {"temperature", "top_p", "top_k", "max_tokens", "stop"}  # the gateway's: no byte depends on them


def digest(model: Model, estimate: Estimate, devices: int) -> str:
    """Of the options, the size of files and cache, and the number of devices: one that differs was never measured."""
    options = {name: value for name, value in model.config.items() if name not in MEANINGLESS}
    way = {"options": options, "weights": estimate.weights, "kv_cache": estimate.kv_cache, "devices": devices}
    return hashlib.sha256(json.dumps(way, sort_keys=True).encode()).hexdigest()


def recorded(model: Model, device_kind: str, digest: str) -> int | None:
    """Bytes on each device; None where this way has not been measured."""
    kinds = {"engine": model.framework, "device_kind": device_kind, "digest": digest}
    known = MemoryPeak.objects.filter(model_id=model.pk, **kinds)  # by id: a form asks for models that are not saved
    return known.values_list("bytes", flat=True).first()


def record(instance: Instance, size: int) -> None:
    """Note that `instance` takes `size` bytes on a device. What was seen before stays if it was more."""
    where = instance.placement
    if not where.get("digest"):  # placed before peaks were kept
        return
    MemoryPeak.objects.update_or_create(
        model_id=instance.model_id,
        engine=instance.model.framework,
        device_kind=where["device_kind"],
        digest=where["digest"],
        defaults={"bytes": Greatest("bytes", size)},
        create_defaults={"bytes": size},
    )
