"""Which models can be fine-tuned, judged by their files."""

from contextlib import suppress
from dataclasses import dataclass, field

from django.utils.translation import gettext as _

from accounts.actor import Actor
from core.errors import InvalidRequest, ModelNotFound
from models_app import artefacts, options, packaged_models
from models_app import services as catalogue
from models_app.models import Mode, Model
from training import paths

ENGINE = "vllm"  # trains its models only; its environment has the trainer's libraries
FIELD = "base_model"
BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class BaseModelInfo:
    """`parameters` is the number of weights, `context` the context length in tokens (None if the files do not say it).

    `shape` holds the numbers of its config.json, as an Artefact has them.
    """

    parameters: int
    context: int | None
    shape: dict = field(default_factory=dict)


def find(actor: Actor, ref: str) -> Model:
    """By id, name, alias, or the path of the model's files. Raises ModelNotFound, InvalidRequest."""
    with suppress(ModelNotFound):
        return catalogue.find(actor, ref)
    path = str(paths.relative(ref, FIELD))
    spellings = [path, *(f"/{root}/{path}" for root in artefacts.EXAMPLE_ROOTS)]
    usable = Model.objects.usable_by(actor).filter(config__model_path__in=spellings).select_related("tenant")
    own = [model for model in usable if actor.tenant and model.tenant_id == actor.tenant.pk]
    found = next(iter(own or usable), None)
    if found is None:
        raise ModelNotFound(details={"model_id": ref})
    return found


def check(model: Model) -> BaseModelInfo:
    """Raises InvalidRequest for a model that cannot be fine-tuned, and what artefacts.check_startable raises."""
    if problem := _problem(model):
        raise InvalidRequest(problem, param=FIELD)
    artefact = artefacts.check_startable(model)
    if artefact.dtype not in BYTES_PER_WEIGHT:
        raise InvalidRequest(
            _("Quantised weights (%(dtype)s) cannot be trained.") % {"dtype": artefact.dtype}, param=FIELD
        )
    if artefact.mode != Mode.CHAT:
        raise InvalidRequest(_not_generative(), param=FIELD)
    context = options.context_length(model.config) or artefact.parameters.get("max_position_embeddings")
    return BaseModelInfo(artefact.weight_bytes // BYTES_PER_WEIGHT[artefact.dtype], context, artefact.parameters)


def _problem(model: Model) -> str:
    if model.framework != ENGINE:
        return _("Weights in GGUF cannot be trained: name a model with safetensors.")
    if model.mode != Mode.CHAT:
        return _not_generative()
    if model.config.get("model_path") in packaged_models.PACKAGED:
        return _("This model comes as a package, which is not for training.")
    return ""


def _not_generative() -> str:
    return _("Only models that write text can be trained, not those for embeddings or ranking.")
