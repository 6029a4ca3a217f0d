"""The data plane's part of /openapi.json, merged in by drf-spectacular: Django does not know its routes.

The properties are those that the modules of gateway accept; a test compares the two.
"""

from gateway.api.openai_responses import FROM_SAMPLING
from gateway.json_types import JsonObject

TEXT: JsonObject = {"type": "string"}
FLAG: JsonObject = {"type": "boolean"}
OBJECT: JsonObject = {"type": "object"}


def _integer(low: int, high: int) -> JsonObject:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float) -> JsonObject:
    return {"type": "number", "minimum": low, "maximum": high}


def _list(items: JsonObject) -> JsonObject:
    return {"type": "array", "items": items}


def _object(properties: JsonObject, required: tuple[str, ...] = ()) -> JsonObject:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


MODEL = {
    **TEXT,
    "description": "Id, name or alias; `default` or none at all means the tenant's default model.",
}
MESSAGE = _object(
    {
        "role": TEXT,
        "content": {"oneOf": [TEXT, _list(OBJECT)], "nullable": True},
        "name": TEXT,
        "tool_calls": _list(OBJECT),
        "tool_call_id": TEXT,
    },
    ("role",),
)
SAMPLING = {
    "n": _integer(1, 8),
    "max_tokens": _integer(1, 2**20),
    "min_tokens": _integer(0, 2**20),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "top_k": _integer(-1, 2**20),
    "min_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, 10),
    "seed": {"type": "integer"},
    "stop": {"oneOf": [TEXT, _list(TEXT)]},
    "stop_token_ids": _list({"type": "integer"}),
    "include_stop_str_in_output": FLAG,
    "ignore_eos": FLAG,
    "skip_special_tokens": FLAG,
    "logit_bias": OBJECT,
    "stream": {**FLAG, "description": "Server-sent events, ended by `data: [DONE]`."},
    "stream_options": _object({"include_usage": FLAG, "continuous_usage_stats": FLAG}),
    "response_format": OBJECT,
    "structured_outputs": OBJECT,
}
PROMPT = {"oneOf": [TEXT, _list(TEXT), _list({"type": "integer"}), _list(_list({"type": "integer"}))]}
CHAT = SAMPLING | {
    "messages": _list(MESSAGE),
    "max_completion_tokens": _integer(1, 2**20),
    "logprobs": FLAG,
    "top_logprobs": _integer(0, 20),
    "tools": _list(OBJECT),
    "tool_choice": {"oneOf": [TEXT, OBJECT]},
    "parallel_tool_calls": FLAG,
    "reasoning_effort": TEXT,
    "chat_template_kwargs": OBJECT,
}
NO_SUFFIX = {**TEXT, "maxLength": 0, "description": "Refused unless it is empty: engines fill no gap."}
COMPLETION = SAMPLING | {"prompt": PROMPT, "logprobs": _integer(0, 20), "echo": FLAG, "suffix": NO_SUFFIX}
TOKENIZE = {
    "prompt": TEXT,
    "messages": _list(MESSAGE),
    "tools": _list(OBJECT),
    "add_special_tokens": FLAG,
    "add_generation_prompt": FLAG,
    "continue_final_message": FLAG,
    "return_token_strs": FLAG,
}
DETOKENIZE = {"tokens": _list({"type": "integer"})}
TRUNCATION = {**_integer(-1, 2**20), "description": "Cut longer texts; -1 means at the model's context."}
EMBED = {
    "input": PROMPT,
    "encoding_format": {**TEXT, "enum": ["float", "base64"]},
    "dimensions": _integer(1, 2**16),
    "truncate_prompt_tokens": TRUNCATION,
}
RERANK = {
    "query": TEXT,
    "documents": _list({"oneOf": [TEXT, _object({"text": TEXT}, ("text",))]}),
    "top_n": _integer(1, 2048),
    "return_documents": {**FLAG, "default": True},
    "truncate_prompt_tokens": TRUNCATION,
    "max_tokens_per_doc": _integer(1, 2**20),
}
TEXTS = {"oneOf": [TEXT, _list(TEXT)]}
SCORE = {
    "text_1": TEXTS,
    "text_2": TEXTS,
    "queries": {**TEXTS, "description": "Another name of text_1."},
    "documents": {**TEXTS, "description": "Another name of text_2."},
    "truncate_prompt_tokens": TRUNCATION,
}

ANSWER_TOKENS, STREAMED = _integer(1, 2**20), {**FLAG, "description": "Server-sent events that have names."}
NOT_KEPT = {"description": "Refused: nothing is kept between requests."}
RESPONSE = {name: SAMPLING[name] for name in FROM_SAMPLING} | {
    "stream": STREAMED,
    "input": {"oneOf": [TEXT, _list(OBJECT)]},
    "instructions": TEXT,
    "max_output_tokens": ANSWER_TOKENS,
    "tools": _list(OBJECT),
    "tool_choice": {"oneOf": [TEXT, OBJECT]},
    "parallel_tool_calls": FLAG,
    "text": OBJECT,
    "reasoning": OBJECT,
    "top_logprobs": _integer(0, 20),
    "include": _list(TEXT),
    "truncation": TEXT,
    "metadata": OBJECT,
    "chat_template_kwargs": OBJECT,
    "background": NOT_KEPT,
    "previous_response_id": NOT_KEPT,
    "conversation": NOT_KEPT,
}
COUNT = {
    "messages": _list(
        _object({"role": TEXT, "content": {"oneOf": [TEXT, _list(OBJECT)]}}, ("role", "content")),
    ),
    "system": {"oneOf": [TEXT, _list(OBJECT)]},
    "tools": _list(OBJECT),
    "tool_choice": OBJECT,
    "thinking": OBJECT,
}
ANTHROPIC_MESSAGE = COUNT | {
    "max_tokens": ANSWER_TOKENS,
    "stop_sequences": _list(TEXT),
    "stream": STREAMED,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "top_k": _integer(-1, 2**20),
    "output_config": OBJECT,
}

USAGE = _object(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), {"type": "integer"}))
COMPLETIONS = _object(
    {"id": TEXT, "model": TEXT, "created": {"type": "integer"}, "choices": _list(OBJECT), "usage": USAGE}
)
OTHER_USAGE = _object(dict.fromkeys(("input_tokens", "output_tokens"), {"type": "integer"}))
RESPONSES = _object({"id": TEXT, "model": TEXT, "status": TEXT, "output": _list(OBJECT), "usage": OTHER_USAGE})
ANTHROPIC_MESSAGES = _object(
    {"id": TEXT, "role": TEXT, "content": _list(OBJECT), "stop_reason": TEXT, "usage": OTHER_USAGE}
)
READING_USAGE = _object(dict.fromkeys(("prompt_tokens", "total_tokens"), {"type": "integer"}))
VECTOR = _object(
    {"object": TEXT, "index": {"type": "integer"}, "embedding": {"oneOf": [_list({"type": "number"}), TEXT]}}
)
EMBEDDINGS = _object({"object": TEXT, "data": _list(VECTOR), "model": TEXT, "usage": READING_USAGE})
RANKED = _object({"index": {"type": "integer"}, "document": TEXT, "relevance_score": {"type": "number"}})
RANKING = _object({"object": TEXT, "model": TEXT, "results": _list(RANKED), "usage": READING_USAGE})
RANKED_OBJECT = _object(
    {"index": {"type": "integer"}, "document": _object({"text": TEXT}), "relevance_score": {"type": "number"}}
)
DOCUMENT_RANKING = _object(
    {"id": TEXT, "model": TEXT, "results": _list(RANKED_OBJECT), "meta": OBJECT, "usage": READING_USAGE}
)
SCORED = _object({"object": TEXT, "index": {"type": "integer"}, "score": {"type": "number"}})
SCORES = _object({"object": TEXT, "data": _list(SCORED), "model": TEXT, "usage": READING_USAGE})
TOKENS = _object(
    {"tokens": _list({"type": "integer"}), "count": {"type": "integer"}, "max_model_len": {"type": "integer"}}
)
CARD = _object(
    {"id": TEXT, "object": TEXT, "created": {"type": "integer"}, "owned_by": TEXT, "aliases": _list(TEXT)},
    ("id", "object", "created", "owned_by"),
)
CARDS = _object({"object": TEXT, "data": _list(CARD)}, ("object", "data"))
ERROR = _object({"error": _object({"message": TEXT, "type": TEXT, "param": TEXT, "code": TEXT})})
ANTHROPIC_ERROR = _object({"type": TEXT, "error": _object({"type": TEXT, "message": TEXT}), "request_id": TEXT})
REF = {"name": "ref", "in": "path", "required": True, "schema": TEXT, "description": "Id, name or alias of a model."}


def _operation(
    name: str,
    summary: str,
    reply: JsonObject,
    body: JsonObject | None = None,
    path_ref: bool = False,
    error: JsonObject = ERROR,
) -> JsonObject:
    operation: JsonObject = {
        "operationId": name,
        "summary": summary,
        "tags": ["inference"],
        "security": [{"bearer": []}, {"apiKey": []}],
        "responses": {
            "200": {"description": "", "content": {"application/json": {"schema": reply}}},
            "default": {"description": "An error", "content": {"application/json": {"schema": error}}},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if path_ref:
        operation["parameters"] = [REF]
    return operation


def _post(
    name: str,
    summary: str,
    fields: JsonObject,
    required: tuple[str, ...],
    reply: JsonObject,
    error: JsonObject = ERROR,
) -> JsonObject:
    return {"post": _operation(name, summary, reply, _object({"model": MODEL, **fields}, required), error=error)}


def _post_to_model(
    name: str, summary: str, fields: JsonObject, required: tuple[str, ...], reply: JsonObject = COMPLETIONS
) -> JsonObject:
    return {"post": _operation(name, summary, reply, _object(fields, required), path_ref=True)}


PATHS = {
    "/v1/models": {"get": _operation("v1_models_list", "The models that the caller may use", CARDS)},
    "/v1/models/{ref}": {"get": _operation("v1_models_retrieve", "One of them", CARD, path_ref=True)},
    "/v1/chat/completions": _post("v1_chat_completions", "Answer a conversation", CHAT, ("messages",), COMPLETIONS),
    "/v1/completions": _post("v1_completions", "Continue a text", COMPLETION, ("prompt",), COMPLETIONS),
    "/v1/embeddings": _post("v1_embeddings", "Vectors of texts", EMBED, ("input",), EMBEDDINGS),
    "/v1/rerank": _post(
        "v1_rerank", "Order documents by how well they answer a query", RERANK, ("query", "documents"), RANKING
    ),
    "/v2/rerank": _post(
        "v2_rerank", "The same in the form of Cohere and vLLM", RERANK, ("query", "documents"), DOCUMENT_RANKING
    ),
    "/rerank": _post("rerank", "The same as /v2/rerank", RERANK, ("query", "documents"), DOCUMENT_RANKING),
    "/v1/score": _post("v1_score", "How well pairs of texts belong together", SCORE, (), SCORES),
    "/v1/responses": _post("v1_responses", "Answer a conversation, in the newer form", RESPONSE, ("input",), RESPONSES),
    "/v1/messages": _post(
        "v1_messages",
        "Answer a conversation, in Anthropic's form",
        ANTHROPIC_MESSAGE,
        ("messages", "max_tokens"),
        ANTHROPIC_MESSAGES,
        ANTHROPIC_ERROR,
    ),
    "/v1/messages/count_tokens": _post(
        "v1_messages_count_tokens",
        "How many tokens a conversation has",
        COUNT,
        ("messages",),
        _object({"input_tokens": {"type": "integer"}}),
        ANTHROPIC_ERROR,
    ),
    "/tokenize": _post("tokenize", "Token ids of a text or conversation", TOKENIZE, (), TOKENS),
    "/detokenize": _post("detokenize", "The text of token ids", DETOKENIZE, ("tokens",), _object({"prompt": TEXT})),
    "/api/models/{ref}/generate": _post_to_model("models_generate", "Continue a text", COMPLETION, ("prompt",)),
    "/api/models/{ref}/chat/completions": _post_to_model(
        "models_chat_completions", "Answer a conversation", CHAT, ("messages",)
    ),
    "/api/models/{ref}/embeddings": _post_to_model(
        "models_embeddings", "Vectors of texts", EMBED, ("input",), EMBEDDINGS
    ),
}


def add_data_plane(result: JsonObject, generator: object, request: object, public: bool) -> JsonObject:
    """A postprocessing hook of drf-spectacular."""
    result["paths"] = dict(sorted({**result["paths"], **PATHS}.items()))
    return result
