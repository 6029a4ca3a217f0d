"""llama.cpp's adapter: what it claims for a GGUF file, how it starts the server, what it makes of last words."""

from pathlib import Path

import pytest

from core.units import MIB
from demo import to_gguf
from engines import install
from engines.base import LaunchRequest
from engines.llamacpp import LlamaCppEngine, slots
from models_app import artefacts
from models_app.artefacts import Artefact
from models_app.models import Mode, Model

ADAPTER = LlamaCppEngine()
LARGE = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131_072, "vocab_size": 128_256,
}  # fmt: skip
PER_TOKEN = 2 * 32 * 8 * 128 * 2  # bytes of keys and values of the large model, in float16


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory) -> Path:
    return to_gguf.write(tmp_path_factory.mktemp("gguf") / "demo.gguf")


def large(**more) -> Artefact:
    return Artefact(Path("/m/large.gguf"), "gguf", 4_600 * MIB, "q4_k", LARGE, ("llama",), **more)


def model(mode: Mode = Mode.CHAT, **config) -> Model:
    return Model(name="team/large", framework="llama.cpp", mode=mode, config=config)


def started(model: Model, artefact: Artefact | None = None, kind: str = "cpu") -> list[str]:
    artefact = artefact or large()
    request = LaunchRequest(
        model=model, served_name=model.name, path=artefact.path, artefact=artefact, socket=Path("/run/i/engine.sock"),
        device_kind=kind, device_indexes=(0, 1), estimate=ADAPTER.estimate(model, artefact, kind),
        work_folder=Path("/run/i"),
    )  # fmt: skip
    return ADAPTER.command(request).argv


def value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_demo_model_written_as_gguf_is_read_back(demo_file):
    found = artefacts.inspect(demo_file)
    assert (found.format, found.dtype, found.architectures, found.mode) == ("gguf", "float16", ("llama",), Mode.CHAT)
    assert found.has_chat_template
    assert found.parameters["vocab_size"] == 1024
    assert found.parameters["max_position_embeddings"] == 2048


def test_the_claim_is_weights_and_as_many_full_sequences_as_the_limit_holds():
    estimate = ADAPTER.estimate(model(n_ctx=8192), large(), "cuda")
    assert estimate.weights == 4_600 * MIB
    assert estimate.kv_cache == 4 * 8192 * PER_TOKEN
    assert slots(model(n_ctx=8192), large(), "cpu") == 1
    assert slots(model(n_ctx=1024), large(), "cpu") == 4


def test_a_sequence_is_claimed_as_long_as_the_engine_rounds_it_to():
    assert ADAPTER.estimate(model(n_ctx=300, n_parallel=2), large(), "cpu").kv_cache == 2 * 512 * PER_TOKEN
    assert value(started(model(n_ctx=300, n_parallel=2)), "--ctx-size") == "1024"


def test_a_smaller_type_of_the_cache_takes_less_memory():
    whole = ADAPTER.estimate(model(n_ctx=1024), large(), "cpu").kv_cache
    assert ADAPTER.estimate(model(n_ctx=1024, kv_cache_type="q8_0"), large(), "cpu").kv_cache == whole * 34 // 64


def test_it_listens_on_the_socket_only_and_takes_what_was_claimed():
    argv = started(model(n_ctx=4096))
    assert argv[0] == str(install.engine_program("llama.cpp"))
    assert (value(argv, "--host"), value(argv, "--alias")) == ("/run/i/engine.sock", "team/large")
    assert (value(argv, "--fit"), value(argv, "--cache-ram")) == ("off", "0")
    assert {"--no-kv-unified", "--offline", "--no-ui", "--no-slots", "--metrics", "--jinja"} <= set(argv)
    assert "--port" not in argv


def test_each_option_reaches_the_command_line():
    argv = started(model(n_ctx=4096, n_parallel=3, n_threads=5, n_batch=64, n_ubatch=32, seed=7, kv_cache_type="q8_0"))
    flags = ("--parallel", "--threads", "--batch-size", "--ubatch-size", "--seed", "--cache-type-k", "--cache-type-v")
    assert [value(argv, flag) for flag in flags] == ["3", "5", "64", "32", "7", "q8_0", "q8_0"]


def test_a_named_chat_format_replaces_the_models_own_template():
    argv = started(model(chat_format="llama-3"))
    assert (value(argv, "--chat-template"), "--jinja" in argv, "--no-jinja" in argv) == ("llama3", False, True)


def test_models_that_read_only_take_a_whole_text_at_once():
    embedding = started(model(Mode.EMBEDDING, n_ctx=512))
    assert value(embedding, "--ubatch-size") == value(embedding, "--batch-size") == "512"
    assert value(embedding, "--pooling") == "mean"
    assert "--pooling" not in started(model(Mode.EMBEDDING), large(is_pooling=True))
    assert "--rerank" in started(model(Mode.RERANKER))


def test_an_adapter_of_the_model_is_loaded_with_it():
    assert value(started(model(), large(adapter=Path("/m/lora.gguf"))), "--lora") == "/m/lora.gguf"
    assert "--lora" not in started(model())


def test_on_a_gpu_all_layers_go_there_unless_fewer_are_named():
    assert value(started(model(), kind="cuda"), "--gpu-layers") == "999"
    assert value(started(model(n_gpu_layers=12), kind="cuda"), "--gpu-layers") == "12"
    assert value(started(model(n_gpu_layers=12)), "--device") == "none"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("error: invalid argument: --nonsense", "The engine does not know the option --nonsense."),
        ("E error loading model: unknown model architecture: 'x'", "The engine does not support the architecture x."),
        ("E tensor 'blk.0' data is not within the file bounds, model is corrupted", "The weights are damaged."),
        ("E failed to initialize the context: std::bad_alloc", "The engine ran out of memory."),
        ("E error loading model: split files differ", "split files differ"),
        ("E error loading model: failed to load from /host/path/x.gguf", None),
        ("all is well", None),
    ],
)
def test_last_words_are_explained_without_the_hosts_paths(line, meaning):
    found = ADAPTER.diagnose([line, "srv exiting due to model loading error"])
    assert (found.meaning if found else None) == meaning
