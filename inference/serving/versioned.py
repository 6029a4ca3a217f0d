"""Models as the engine API (/api/v1) shows them: its own fields added to those of the service API (/api)."""

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
TRAINABLE = "vllm"  # the trainer reads the weights of this engine only


def add_fields(shown: list[dict], models: list[Model], actor: Actor) -> list[dict]:
    """`shown` has the fields of the service API for each of `models`; `status` gets the engine API's label."""
    foremost, has_gpu = foremost_instances(models), Device.objects.online().filter(kind=DeviceKind.CUDA).exists()
    adapters = _adapters(models, actor)
    return [
        {
            **fields,
            **_engine_fields(model, foremost.get(model.pk), has_gpu),
            "loraAdapters": adapters.get(model.pk, []),
            "config": {**fields["config"], **config_fields(model)},
        }
        for fields, model in zip(shown, models, strict=True)
    ]


def _adapters(models: list[Model], actor: Actor) -> dict[str, list[str]]:
    """Model id → names of the published adapters on it that the actor sees; each can be `model` in a request."""
    found: dict[str, list[str]] = {}
    published = Adapter.objects.visible_to(actor).filter(base_model__in=models, current__isnull=False)
    for model_id, name in published.order_by("name").values_list("base_model_id", "name"):
        found.setdefault(model_id, []).append(name)
    return found


def _engine_fields(model: Model, instance: Instance | None, has_gpu: bool) -> dict:
    return {
        "engine": _engine(model, instance, has_gpu),
        "status": status_words.labels_for(instance).engine,
        "capabilities": capabilities(model),
        "maxModelLen": context_length(model.config),
        "modelPath": _path_name(model),
    }


def _engine(model: Model, instance: Instance | None, has_gpu: bool) -> str:
    """By the device where it runs or ran last; for a model that never ran, by the first choice of placement."""
    if model.framework == LLAMA:
        return LLAMA
    kind = instance.placement.get("device_kind") if instance else None
    on_gpu = has_gpu if kind is None else kind == DeviceKind.CUDA
    return CUDA if on_gpu else CPU


def capabilities(model: Model) -> list[str]:
    trainable = model.framework == TRAINABLE and model.mode == Mode.CHAT
    return CAPABILITIES[Mode(model.mode)] + (["training"] if trainable else [])


def _path_name(model: Model) -> str:
    """A name in the tenant's folder or of the hub unchanged; of an absolute path on the host only the last part."""
    path = model.config.get("model_path", "").rstrip("/")
    return path.rpartition("/")[2] if path.startswith("/") else path


def config_fields(model: Model) -> dict:
    """What `config` shows in addition, and cannot be changed by these names."""
    return {
        "maxModelLen": context_length(model.config),
        "gpuMemoryUtilization": model.config.get("gpu_memory_utilization"),
        "tensorParallelSize": model.config.get("tensor_parallel_size", 1),
    }
