"""Whole replies in OpenAI's schema, and refusals that say nothing of the engine."""

import json
from dataclasses import dataclass

import pytest

from core import errors
from core.language import language_of
from gateway.api import replies
from gateway.api.generation import CHAT_COMPLETION, TEXT_COMPLETION, TOKENIZATION
from gateway.api.operation import PreparedRequest
from gateway.api.stream_relay import TokenUsage
from gateway.errors import ContextTooLong, render, render_event
from gateway.routing.snapshot import ModelEntry

MODEL = ModelEntry("model-1", "tenant-a", "demo", context=2048)
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "demo",
    "choices": [{
        "index": 0, "logprobs": None, "finish_reason": "tool_calls", "stop_reason": None, "token_ids": None,
        "message": {
            "role": "assistant", "content": None, "refusal": None, "annotations": None, "audio": None,
            "function_call": None, "reasoning": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
    }],
    "service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "prompt_token_ids": None,
    "kv_transfer_params": {"host": "10.0.0.1"},
    "usage": {
        "prompt_tokens": 20, "total_tokens": 27, "completion_tokens": 7, "completion_tokens_details": None,
        "prompt_tokens_details": {"cached_tokens": 5, "multimodal_tokens": None},
    },
}  # fmt: skip


def cleaned(operation, reply, **options) -> tuple[dict, TokenUsage]:
    body, usage = replies.convert_reply(operation, json.dumps(reply).encode(), PreparedRequest({}), **options)
    return json.loads(body), usage


def test_nulls_stay_only_where_the_schema_requires_the_field():
    reply, usage = cleaned(CHAT_COMPLETION, CHAT)
    assert reply == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "demo",
        "choices": [{
            "index": 0, "logprobs": None, "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "refusal": None,
                        "tool_calls": CHAT["choices"][0]["message"]["tool_calls"]},
        }],
        "usage": {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27, "cache_n": 5, "prompt_n": 15,
                  "prompt_tokens_details": {"cached_tokens": 5}},
    }  # fmt: skip
    assert usage == TokenUsage(20, 7, 5)


def test_logprobs_get_the_refusal_that_the_schema_requires():
    token = {"token": "a", "logprob": -0.1, "bytes": None, "top_logprobs": []}
    reply, _usage = cleaned(CHAT_COMPLETION, {"choices": [{"index": 0, "logprobs": {"content": [token]}}]})
    assert reply["choices"][0]["logprobs"] == {"content": [token], "refusal": None}


def test_completions_keep_their_own_logprobs_and_get_a_name_of_ours_where_asked():
    choice = {"index": 0, "text": "x", "logprobs": {"tokens": ["x"]}, "finish_reason": "stop", "prompt_logprobs": None}
    reply, _usage = cleaned(TEXT_COMPLETION, {"id": "cmpl-1", "choices": [choice]}, generated_id=True)
    assert reply["id"].startswith("gen-")
    assert reply["choices"] == [{"index": 0, "text": "x", "logprobs": {"tokens": ["x"]}, "finish_reason": "stop"}]


def test_tokens_pass_without_nulls():
    reply, usage = cleaned(TOKENIZATION, {"count": 1, "tokens": [7], "token_strs": None})
    assert reply == {"count": 1, "tokens": [7]}
    assert usage == TokenUsage()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"choices": 5}', b'{"choices": [1]}', b'{"error": "x"}', b"\xff"])
def test_what_is_no_reply_is_the_engines_failure(raw):
    with pytest.raises(errors.EngineUnavailable):
        replies.convert_reply(CHAT_COMPLETION, raw, PreparedRequest({}))


def refused(status: int, message: str, param: str | None = None, asked=("messages", "tools")) -> errors.PlatformError:
    body = json.dumps({"error": {"message": message, "type": "BadRequestError", "param": param, "code": status}})
    return replies.engine_refusal(CHAT_COMPLETION, asked, status, body.encode(), MODEL)


def test_a_prompt_that_is_too_long_is_said_with_the_numbers_alone():
    error = refused(400, "This model's maximum context length is 512 tokens. However, your prompt contains at least "
                    "700 input tokens at /secret/path", "input_tokens")  # fmt: skip
    assert isinstance(error, ContextTooLong)
    assert (error.param, error.details) == ("messages", {"context": 512})
    assert "512" in str(error.message)
    assert "700" in str(error.message)
    assert "secret" not in str(error.message)
    shown = json.loads(render(error, "/v1/chat/completions").body)["error"]
    assert (shown["code"], shown["param"]) == ("context_length_exceeded", "messages")


def test_an_answer_that_is_too_long_names_its_own_field():
    error = refused(400, "max_tokens=9000 cannot be greater than max_model_len=512.", "max_tokens")
    assert (type(error), error.param, error.details) == (ContextTooLong, "max_tokens", {"context": 512})


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser', "tools"),
        ('tools: unknown field "x"', None),
        ("tools param requires --jinja flag", "tools"),
        ("Invalid grammar at line 7 of /opt/vllm/x.py", "tools"),
        ("At most 0 image(s) may be provided", "messages"),
        ("Conversation roles must alternate", "messages"),
        ("0x7f00deadbeef is no good", None),
    ],
)
def test_other_refusals_are_told_in_our_words(message, param):
    error = refused(400, message)
    assert (error.status, error.param) == (422, param)
    assert not set(message.split()) & {"/opt/vllm/x.py", "0x7f00deadbeef"} & set(str(error.message).split())


def test_the_field_that_binds_the_answer_is_named():
    assert refused(400, "bad regex", asked=("messages", "structured_outputs")).param == "structured_outputs"
    assert refused(400, "bad schema", asked=("messages", "response_format", "tools")).param == "response_format"
    assert refused(400, "bad schema", asked=("messages",)).param is None


def test_a_param_is_passed_on_only_if_it_is_a_field_of_ours():
    assert refused(400, "no", "temperature").param == "temperature"
    assert refused(400, "no", "engine_internal").param is None


@pytest.mark.parametrize("status", [301, 401, 404, 500, 502])
def test_an_engine_that_fails_is_unavailable(status):
    error = refused(status, "Traceback: /secret/path")
    assert isinstance(error, errors.EngineUnavailable)
    assert "secret" not in str(error.message)


def test_an_overloaded_engine_says_when_to_come_back():
    assert refused(429, "busy").retry_after
    assert refused(503, "busy").retry_after
    assert isinstance(replies.engine_refusal(CHAT_COMPLETION, (), 400, b"<html>", MODEL), errors.InvalidRequest)


@dataclass(frozen=True)
class Told:
    """A row of the contract's table of causes: (status, code) on two surfaces, (status, type, code) on OpenAI's."""

    error: errors.PlatformError
    api: tuple[int, str]
    v1: tuple[int, str]
    openai: tuple[int, str, str | None]


CAUSES = {
    "not JSON": Told(
        errors.InvalidRequest(status=400),
        (400, "INVALID_REQUEST"), (400, "INVALID_REQUEST"), (400, "invalid_request_error", None),
    ),
    "invalid field": Told(
        errors.InvalidRequest(param="n"),
        (422, "INVALID_REQUEST"), (400, "INVALID_REQUEST"), (400, "invalid_request_error", None),
    ),
    "no or bad credential": Told(
        errors.Unauthenticated(),
        (401, "AUTHENTICATION_FAILED"), (401, "AUTHENTICATION_FAILED"),
        (401, "authentication_error", "invalid_api_key"),
    ),
    "role or scope too low": Told(
        errors.Forbidden(),
        (403, "AUTHORIZATION_FAILED"), (403, "AUTHORIZATION_FAILED"), (403, "permission_error", None),
    ),
    "model unknown": Told(
        errors.ModelNotFound(),
        (404, "MODEL_NOT_FOUND"), (404, "MODEL_NOT_FOUND"), (404, "invalid_request_error", "model_not_found"),
    ),
    "other thing unknown": Told(
        errors.NotFound(), (404, "NOT_FOUND"), (404, "NOT_FOUND"), (404, "invalid_request_error", "not_found")
    ),
    "name taken": Told(
        errors.ModelAlreadyExists(),
        (409, "MODEL_ALREADY_EXISTS"), (409, "MODEL_ALREADY_EXISTS"), (409, "invalid_request_error", "conflict"),
    ),
    "state forbids it": Told(
        errors.Conflict(), (409, "CONFLICT"), (409, "CONFLICT"), (409, "invalid_request_error", "conflict")
    ),
    "training job unknown": Told(
        errors.TrainingJobNotFound(),
        (404, "NOT_FOUND"), (404, "TRAINING_JOB_NOT_FOUND"), (404, "invalid_request_error", "not_found"),
    ),
    "state of a training job forbids it": Told(
        errors.TrainingJobConflict(),
        (409, "CONFLICT"), (400, "TRAINING_JOB_RUNNING"), (409, "invalid_request_error", "conflict"),
    ),
    "stopped or starting": Told(
        errors.ModelNotRunning(),
        (503, "MODEL_NOT_RUNNING"), (503, "MODEL_NOT_READY"), (503, "api_error", "model_not_ready"),
    ),
    "no room": Told(
        errors.InsufficientResources(),
        (503, "INSUFFICIENT_RESOURCES"), (503, "INSUFFICIENT_RESOURCES"), (503, "api_error", "insufficient_resources"),
    ),
    "no room yet": Told(
        errors.NoRoomYet(),
        (503, "INSUFFICIENT_RESOURCES"), (503, "INSUFFICIENT_RESOURCES"), (503, "api_error", "insufficient_resources"),
    ),
    "no engine": Told(
        errors.EngineUnavailable(),
        (503, "ENGINE_UNAVAILABLE"), (503, "MODEL_NOT_READY"), (503, "api_error", "engine_unavailable"),
    ),
    "too slow": Told(
        errors.OperationTimeout(),
        (504, "OPERATION_TIMEOUT"), (500, "INTERNAL_ERROR"), (504, "api_error", "timeout"),
    ),
    "limit or budget": Told(
        errors.RateLimited(),
        (429, "RATE_LIMITED"), (429, "RATE_LIMITED"), (429, "rate_limit_error", "rate_limit_exceeded"),
    ),
    "body too large": Told(
        errors.TooLarge(),
        (413, "INVALID_REQUEST"), (413, "INVALID_REQUEST"), (413, "invalid_request_error", None),
    ),
    "Postgres away": Told(
        errors.ServiceUnavailable(),
        (503, "SERVICE_UNAVAILABLE"), (503, "SERVICE_UNAVAILABLE"), (503, "api_error", "service_unavailable"),
    ),
    "a bug": Told(
        errors.PlatformError(),
        (500, "INTERNAL_ERROR"), (500, "INTERNAL_ERROR"), (500, "api_error", "internal_error"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", CAUSES.values(), ids=CAUSES)
def test_each_cause_has_its_form_on_each_surface(told):
    reply = render(told.error, "/v1/completions")
    openai = json.loads(reply.body)["error"]
    assert (reply.status, openai["type"], openai["code"]) == told.openai
    assert openai["param"] == told.error.param
    for path, expected in (("/api/models/demo/generate", told.api), ("/api/v1/models/demo/generate", told.v1)):
        reply = render(told.error, path)
        body = json.loads(reply.body)
        assert (reply.status, body["error"]["code"]) == expected
        assert (body["success"], body["path"]) == (False, path)
        assert errors.render(told.error, path)["error"] == body["error"]  # what Django answers


def test_under_v1_details_are_a_list_that_names_the_exact_cause():
    assert errors.render(errors.InvalidRequest("Too many.", param="n"), "/api/v1/x")["error"]["details"] == [
        {"type": "invalid_request", "field": "n", "description": "Too many."}
    ]
    assert errors.render(errors.OperationTimeout("Late."), "/api/v1/x")["error"]["details"] == [
        {"type": "operation_timeout", "field": None, "description": "Late."}
    ]


def test_every_word_that_the_platform_has_for_an_error_is_in_the_table():
    def below(kind) -> set:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    def words(error) -> tuple:
        return error.code, error.v1, error.openai

    known = {words(told.error) for told in CAUSES.values()}
    ours = [kind for kind in below(errors.PlatformError) if kind.__module__ == "core.errors"]
    assert [kind.__name__ for kind in ours if words(kind) not in known] == []


def test_a_broken_streams_last_event_has_the_form_of_its_surface():
    error = errors.EngineUnavailable()
    assert json.loads(render_event(error, "/v1/completions")[6:])["error"]["code"] == "engine_unavailable"
    assert json.loads(render_event(error, "/api/models/x/generate")[6:])["error"]["code"] == "ENGINE_UNAVAILABLE"


@pytest.mark.parametrize(
    ("header", "language"),
    [(None, "en"), (b"", "en"), (b"zh-CN,zh;q=0.9", "zh-hans"), (b"zh-Hans", "zh-hans"), (b"fr,en;q=0.1", "en"),
     (b"xx;;;q=", "en"), (b"\xff", "en")],
)  # fmt: skip
def test_the_callers_language_is_taken_where_we_speak_it(header, language):
    assert language_of(header) == language
