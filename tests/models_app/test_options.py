"""Options of a model: typed, within bounds, and refused by name where they are unknown or dangerous."""

import json

import pytest

from models_app import options

MODELS = "/api/models"
VLLM_OPTIONS = {
    "model_path": "/models/llama", "n_ctx": 512, "max_model_len": 512, "dtype": "float16", "kv_cache_bytes": 64 * 2**20,
    "max_num_seqs": 8, "tensor_parallel_size": 1, "block_size": 16, "seed": 0, "enable_prefix_caching": False,
    "enforce_eager": True, "quantization": "awq", "enable_auto_tool_choice": True, "tool_call_parser": "hermes",
    "enable_lora": True, "max_lora_rank": 64, "max_loras": 4, "max_cpu_loras": 4,
    "stream_chunk_size": 4, "allow_auto_tuning": True, "temperature": 0,
    "top_p": 1, "top_k": -1, "max_tokens": 1, "presence_penalty": -2, "frequency_penalty": 2.0,
    "stop": ["\n", "###"],
}  # fmt: skip


@pytest.fixture
def create(api, owner):
    """create(config) posts a model with that config."""

    def post(config, **fields):
        body = json.dumps({"name": "m", "config": config, **fields})  # escapes what UTF-8 cannot hold
        return api(owner).generic("POST", MODELS, body, content_type="application/json")

    return post


def details(reply) -> dict:
    assert reply.status_code == 422, reply.content
    error = reply.json()["error"]
    assert error["code"] == "INVALID_REQUEST"
    return error["details"]


def test_every_option_of_both_engines_can_be_set(api, owner, create):
    assert VLLM_OPTIONS.keys() | {"model_name"} == options.ENGINES["vllm"].keys()
    made = create(VLLM_OPTIONS)
    assert made.status_code == 201, made.content
    assert api(owner).get(f"{MODELS}/m").json()["config"] == VLLM_OPTIONS
    llama = {
        "model_path": "x.gguf", "n_ctx": 2048, "n_threads": 4, "n_gpu_layers": -1, "n_batch": 512, "seed": 1,
        "chat_format": "chatml", "temperature": 0.5,
    }  # fmt: skip
    assert create(llama, name="other", framework="llama.cpp").status_code == 201


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_ctx", 0), ("n_ctx", -1), ("n_ctx", 10**9), ("n_ctx", 512.0), ("n_ctx", "512"),
        ("n_ctx", True), ("n_ctx", None), ("n_ctx", []), ("n_ctx", {}),
        ("temperature", 2.1), ("temperature", -0.1), ("temperature", True), ("temperature", "0.5"),
        ("top_p", 0), ("top_p", 1.5), ("top_k", -2), ("max_tokens", 0),
        ("presence_penalty", 3), ("frequency_penalty", -3),
        ("dtype", "float8"), ("dtype", 16), ("dtype", []), ("dtype", None), ("quantization", "../x"),
        ("max_lora_rank", 7), ("max_lora_rank", True), ("max_lora_rank", 64.0), ("block_size", 17),
        ("tool_call_parser", "evil.Parser"),
        ("enable_lora", 1), ("enable_lora", "true"), ("enable_lora", None),
        ("kv_cache_bytes", 1), ("kv_cache_bytes", 2**63), ("seed", -1), ("seed", 2**31),
        ("tensor_parallel_size", 0), ("max_num_seqs", 0), ("max_loras", 0), ("stream_chunk_size", 0),
        ("stop", "x"), ("stop", [1]), ("stop", [""]), ("stop", ["x"] * 17), ("stop", ["x" * 257]),
        ("model_path", ""), ("model_path", 1), ("model_path", "x" * 501), ("model_path", "a\nb"),
        ("model_name", []), ("model_name", "a\u202eb"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_the_name_of_the_option(create, option, value):
    assert set(details(create({option: value}))) == {f"config.{option}"}


@pytest.mark.parametrize("body", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_know_is_no_json(api, owner, body):
    raw = f'{{"name": "m", "config": {{"temperature": {body}}}}}'
    reply = api(owner).generic("POST", MODELS, raw, content_type="application/json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("value", ["1e999", str(10**400), '"a\\u0000b"', '"\\ud800"'])
def test_what_no_column_could_hold_is_refused_before_it_is_read(api, owner, value):
    raw = f'{{"name": "m", "config": {{"model_path": {value}}}}}'
    reply = api(owner).generic("POST", MODELS, raw, content_type="application/json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("trust_remote_code", "run code"), ("trust-remote-code", "run code"), ("--trust-remote-code", "run code"),
        ("TRUST_REMOTE_CODE", "run code"), ("tool_parser_plugin", "run code"), ("middleware", "run code"),
        ("hf_overrides", "run code"), ("load_format", "run code"),
        ("host", "listen"), ("port", "listen"), ("uds", "listen"), ("ssl_keyfile", "listen"),
        ("api_key", "Keys"), ("hf_token", "Keys"),
        ("served_model_name", "model's name"), ("chat_template", "Templates"),
        ("download_dir", "files of the model"), ("tokenizer", "files of the model"),
        ("lora_modules", "files of the model"), ("hf_config_path", "files of the model"),
        ("allowed_local_media_path", "files of the model"),
        ("gpu_memory_utilization", "kv_cache_bytes"), ("swap_space", "kv_cache_bytes"),
    ],
)  # fmt: skip
def test_dangerous_options_are_refused_with_the_reason(create, option, why):
    assert why in details(create({option: "x"}))[f"config.{option}"]


@pytest.mark.parametrize("option", ["n_gpu_layers", "chat_format", "n_discard", "x", "", "__class__", "a" * 5000])
def test_unknown_options_are_refused_by_name(create, option):
    (name,) = details(create({option: 1}))
    assert name.startswith("config.")
    assert len(name) < 500


def test_all_wrong_options_are_named_at_once(create):
    found = details(create({"n_ctx": 1, "host": "0.0.0.0", "bogus": 1, "temperature": 1}))
    assert set(found) == {"config.n_ctx", "config.host", "config.bogus"}


def test_the_two_names_of_the_context_must_agree(create):
    assert set(details(create({"n_ctx": 512, "max_model_len": 1024}))) == {"config.n_ctx"}


@pytest.mark.parametrize("config", [[], "x", 1, None, True])
def test_a_config_is_an_object(create, config):
    assert set(details(create(config))) == {"config"}


@pytest.mark.parametrize("framework", ["sglang", "", "VLLM", 7])
def test_an_engine_that_is_not_known_is_refused(create, framework):
    assert set(details(create({}, framework=framework))) == {"framework"}


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "/models/../../private", "C:\\models", "/proc/self/environ", "a/../../b"]
)
def test_paths_outside_the_roots_are_refused_when_a_model_is_created(create, path):
    assert set(details(create({"model_path": path}))) == {"config.model_path"}


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"gpu_count": -1}, "gpu_count"), ({"gpu_count": 1.5}, "gpu_count"), ({"gpu_memory": "4 GB"}, "gpu_memory"),
        ({"cpu_cores": True}, "cpu_cores"), ({"memory": 10**30}, "memory"), ({"disk": 1}, "disk"),
    ],
)  # fmt: skip
def test_resources_are_typed_too(create, resources, field):
    assert set(details(create({}, resource_requirements=resources))) == {f"resource_requirements.{field}"}


def test_the_openapi_page_lists_the_options_with_their_bounds(api):
    schemas = api().get("/openapi.json").json()["components"]["schemas"]
    described = schemas["WriteModel"]["properties"]["config"]
    assert described["properties"]["n_ctx"]["minimum"] == 16
    assert "hermes" in described["properties"]["tool_call_parser"]["enum"]
    assert "trust_remote_code" not in described["properties"]
