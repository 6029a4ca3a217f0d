"""What a model must be to be taught, as far as its files tell."""

from dataclasses import dataclass

from django.utils.translation import gettext as _

from core.errors import InvalidRequest
from models_app import artefacts, options, packaged
from models_app.models import Mode, Model

FIELD = "base_model"
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Base:
    """`parameters` are weights, `context` the tokens that it takes at once (None where its files do not say)."""

    parameters: int
    context: int | None


def check(model: Model) -> Base:
    """Raises InvalidRequest for what cannot be taught, artefacts.Missing or Refused for what is not there or unsafe."""
    if problem := _problem(model):
        raise InvalidRequest(problem, param=FIELD)
    artefact = artefacts.check_startable(model)
    if artefact.dtype not in BYTES:
        raise InvalidRequest(
            _("Quantised weights (%(dtype)s) cannot be trained.") % {"dtype": artefact.dtype}, param=FIELD
        )
    if artefact.mode != Mode.CHAT:
        raise InvalidRequest(_not_generative(), param=FIELD)
    context = options.context_length(model.config) or artefact.parameters.get("max_position_embeddings")
    return Base(artefact.weight_bytes // BYTES[artefact.dtype], context)


def _problem(model: Model) -> str:
    if model.framework != "vllm":
        return _("Weights in GGUF cannot be trained: name a model with safetensors.")
    if model.mode != Mode.CHAT:
        return _not_generative()
    if model.config.get("model_path") in packaged.PACKAGED:
        return _("This model comes as a package, which is not for training.")
    return ""


def _not_generative() -> str:
    return _("Only models that write text can be trained, not those for embeddings or ranking.")
