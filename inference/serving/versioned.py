"""Models as the engine document shows them below /api/v1: its fields beside the service document's."""

from accounts.actor import Actor
from inference.instances import status_words
from inference.models import Device, DeviceKind, Instance
from inference.serving.runtime import foremost_instances
from models_app.models import Adapter, Mode, Model
from models_app.options import context_length

CUDA, CPU, LLAMA = "cuda-vllm-async", "cpu-vllm", "llama.cpp"
CAPABILITIES = {
    Mode.CHAT: ["inference", "stream"],
    Mode.EMBEDDING: ["embedding"],
    Mode.RERANKER: ["rerank"],
}
TRAINABLE = "vllm"  # its weights are those that the trainer reads


def add_fields(shown: list[dict], models: list[Model], actor: Actor) -> list[dict]:
    """`shown` are the service document's fields of `models`; `status` is in the engine document's words."""
    foremost, has_gpu = foremost_instances(models), Device.objects.online().filter(kind=DeviceKind.CUDA).exists()
    adapters = _adapters(models, actor)
    return [
        {
            **fields,
            **_own(model, foremost.get(model.pk), has_gpu),
            "loraAdapters": adapters.get(model.pk, []),
            "config": {**fields["config"], **_config(model)},
        }
        for fields, model in zip(shown, models, strict=True)
    ]


def _adapters(models: list[Model], actor: Actor) -> dict[str, list[str]]:
    """Model id → the published adapters that the actor's tenant has on it: each is the name of a model in requests."""
    found: dict[str, list[str]] = {}
    published = Adapter.objects.visible_to(actor).filter(base_model__in=models, current__isnull=False)
    for model_id, name in published.order_by("name").values_list("base_model_id", "name"):
        found.setdefault(model_id, []).append(name)
    return found


def _own(model: Model, instance: Instance | None, has_gpu: bool) -> dict:
    return {
        "engine": _engine(model, instance, has_gpu),
        "status": status_words.word(instance).engine,
        "capabilities": capabilities(model),
        "maxModelLen": context_length(model.config),
        "modelPath": _path_name(model),
    }


def _engine(model: Model, instance: Instance | None, has_gpu: bool) -> str:
    """Where it runs or ran last; of a model that never ran, where it would be placed first."""
    if model.framework == LLAMA:
        return LLAMA
    kind = instance.placement.get("device_kind") if instance else None
    on_gpu = has_gpu if kind is None else kind == DeviceKind.CUDA
    return CUDA if on_gpu else CPU


def capabilities(model: Model) -> list[str]:
    trainable = model.framework == TRAINABLE and model.mode == Mode.CHAT
    return CAPABILITIES[model.mode] + (["training"] if trainable else [])


def _path_name(model: Model) -> str:
    """A name below the tenant's folder or of the hub as it stands; of a path on the host only its last part."""
    path = model.config.get("model_path", "").rstrip("/")
    return path.rpartition("/")[2] if path.startswith("/") else path


def _config(model: Model) -> dict:
    return {
        "maxModelLen": context_length(model.config),
        "gpuMemoryUtilization": model.config.get("gpu_memory_utilization"),
        "tensorParallelSize": model.config.get("tensor_parallel_size", 1),
    }
