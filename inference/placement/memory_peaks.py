"""The recorded peak memory per device for each way to run a model; the next start reserves that much."""

import hashlib
import json

from django.db.models.functions import Greatest

from engines.base import MemoryEstimate
from inference.models import Instance, MemoryPeak
from models_app.models import Model

IRRELEVANT_OPTIONS = {
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
}  # the gateway's: memory does not depend on them


def configuration_digest(model: Model, estimate: MemoryEstimate, devices: int) -> str:
    """Hash of all that memory depends on: options, size of weights and cache, number of devices."""
    options = {name: value for name, value in model.config.items() if name not in IRRELEVANT_OPTIONS}
    configuration = {"options": options, "weights": estimate.weights, "kv_cache": estimate.kv_cache, "devices": devices}
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def recorded_peak(model: Model, device_kind: str, digest: str) -> int | None:
    """Bytes on each device; None if this configuration has not been measured."""
    key = {"engine": model.framework, "device_kind": device_kind, "digest": digest}
    peaks = MemoryPeak.objects.filter(model_id=model.pk, **key)  # by id: the model of a form is not saved yet
    return peaks.values_list("bytes", flat=True).first()


def record_peak(instance: Instance, size: int) -> None:
    """Record that `instance` uses `size` bytes on a device; a higher earlier peak stays."""
    placement = instance.placement
    if not placement.get("digest"):  # placed before peaks were kept
        return
    MemoryPeak.objects.update_or_create(
        model_id=instance.model_id,
        engine=instance.model.framework,
        device_kind=placement["device_kind"],
        digest=placement["digest"],
        defaults={"bytes": Greatest("bytes", size)},
        create_defaults={"bytes": size},
    )
