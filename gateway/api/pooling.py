"""Embeddings, reranking and scoring: requests to models that generate no text, and their replies."""

from django.utils.translation import gettext_lazy as _

from gateway.api import replies, validators
from gateway.api.generation import MAX_CONTEXT_TOKENS
from gateway.api.operation import Operation, PreparedRequest
from gateway.api.stream_relay import TokenUsage, read_usage
from gateway.api.validators import Check, Fields, boolean, field_error, integer, list_of, one_of, text
from gateway.json_types import JsonObject
from gateway.routing.snapshot import ModelEntry
from models_app.models import Mode

MAX_TEXTS = 2048  # in one request, as with OpenAI
MAX_DIMENSIONS = 2**16

content = text(min_length=1)
truncation = integer(-1, MAX_CONTEXT_TOKENS)


def text_input(value: object, param: str) -> object:
    """A text, token ids, or a list of either."""
    if type(value) is str:
        return content(value, param)
    if type(value) is list and value and type(value[0]) is int:
        return validators.token_ids(value, param)
    entry: Check[object] = token_input if type(value) is list and value and type(value[0]) is list else content
    return list_of(entry, MAX_TEXTS)(value, param)


def token_input(value: object, param: str) -> list[int]:
    if not value:
        raise field_error(param, _("must be a list of token ids."))
    return validators.token_ids(value, param)


def document(value: object, param: str) -> str:
    """A text or, as some clients send it, an object with one."""
    if type(value) is dict:
        return content(value.get("text"), f"{param}.text")
    return content(value, param)


def one_or_more(value: object, param: str) -> list[str]:
    return [content(value, param)] if type(value) is str else list_of(content, MAX_TEXTS)(value, param)


EMBED: Fields = {
    "input": text_input,
    "encoding_format": one_of("float", "base64"),
    "dimensions": integer(1, MAX_DIMENSIONS),
    "truncate_prompt_tokens": truncation,
}
RERANK: Fields = {
    "query": content,
    "documents": list_of(document, MAX_TEXTS),
    "top_n": integer(1, MAX_TEXTS),
    "return_documents": boolean,
    "truncate_prompt_tokens": truncation,
    "max_tokens_per_doc": integer(1, MAX_CONTEXT_TOKENS),
}
SCORE: Fields = {
    "text_1": one_or_more,
    "text_2": one_or_more,
    "queries": one_or_more,
    "documents": one_or_more,
    "truncate_prompt_tokens": truncation,
}
PAIRS = {"text_1": "text_2", "queries": "documents"}


def complete_ranking(prepared: PreparedRequest, model: ModelEntry) -> None:
    """The engine ranks all documents; the reply then keeps the best ones, with or without their texts."""
    payload = prepared.payload
    for name in ("query", "documents"):
        validators.require_field(payload, name)
    _check_truncation(prepared, model)
    prepared.documents, prepared.show_documents = payload["documents"], payload.pop("return_documents", True)
    prepared.top = payload.pop("top_n", None)


def complete_scoring(prepared: PreparedRequest, model: ModelEntry) -> None:
    payload = prepared.payload
    first = next(name for name in PAIRS if name in payload)
    second = PAIRS[first]
    validators.require_field(payload, second)
    if len(payload[first]) not in (1, len(payload[second])):
        raise field_error(second, _("must have as many entries as {first}, if that has more than one."), first=first)
    _check_truncation(prepared, model)


def _check_truncation(prepared: PreparedRequest, model: ModelEntry) -> None:
    if model.context and prepared.payload.get("truncate_prompt_tokens", 0) > model.context:
        raise field_error("truncate_prompt_tokens", _("must be between {low} and {high}."), low=-1, high=model.context)


# --- replies


def read_embedding(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    usage = read_usage(reply.get("usage"))
    data = [
        {"object": "embedding", "index": entry["index"], "embedding": entry["embedding"]}
        for entry in replies.require_objects(reply["data"])
    ]
    return {"object": "list", "data": data, "model": reply["model"], "usage": _usage_fields(usage)}, usage


def read_ranking(reply: JsonObject, prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    """The best first. Engines return documents in different forms, so the text is taken from the request."""
    usage = read_usage(reply.get("usage"))
    best = sorted(replies.require_objects(reply["results"]), key=lambda result: result["relevance_score"], reverse=True)
    results = [_ranked_document(result, prepared) for result in best[: prepared.top]]
    return {"object": "rerank", "model": reply["model"], "results": results, "usage": _usage_fields(usage)}, usage


def _ranked_document(result: JsonObject, prepared: PreparedRequest) -> JsonObject:
    shown = {"document": prepared.documents[result["index"]]} if prepared.show_documents else {}
    return {"index": result["index"], **shown, "relevance_score": result["relevance_score"]}


def read_scores(reply: JsonObject, _prepared: PreparedRequest) -> tuple[JsonObject, TokenUsage]:
    usage = read_usage(reply.get("usage"))
    data = [
        {"object": "score", "index": entry["index"], "score": entry["score"]}
        for entry in replies.require_objects(reply["data"])
    ]
    return {"object": "list", "data": data, "model": reply["model"], "usage": _usage_fields(usage)}, usage


def _usage_fields(usage: TokenUsage) -> JsonObject:
    return {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt}


EMBEDDING = Operation(
    "embeddings", "/v1/embeddings", EMBED, ("input",), _check_truncation, read_embedding, modes=(Mode.EMBEDDING,)
)
RERANKING = Operation(
    "rerank", "/v1/rerank", RERANK, ("documents",), complete_ranking, read_ranking,
    modes=(Mode.RERANKER, Mode.EMBEDDING),
)  # fmt: skip
SCORING = Operation(
    "score", "/v1/score", SCORE, tuple(PAIRS), complete_scoring, read_scores,
    modes=(Mode.RERANKER, Mode.EMBEDDING), optional=True,
)  # fmt: skip
