"""Weights on disk: where a tenant may point, and what no engine gets to see."""

import json
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from django.conf import settings

from core.units import MIB
from models_app import artefacts
from models_app.artefacts import MissingWeights, RefusedWeights
from models_app.models import Model
from tests.support import weight_files


class Canary:
    """A pickle that leaves a file behind if anybody loads it."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def tenant_files(tenant, settings, tmp_path) -> Path:
    """Acme's folder of models."""
    settings.DATA_DIR = tmp_path / "data"
    folder = artefacts.tenant_folder(tenant)
    folder.mkdir(parents=True)
    return folder


# --- what the files say


def test_the_demo_model_is_understood():
    demo = artefacts.inspect(settings.DEMO_MODEL)
    assert (demo.format, demo.dtype, demo.mode, demo.has_chat_template) == ("safetensors", "float16", "Chat", True)
    assert (
        demo.parameters["num_hidden_layers"] == json.loads((demo.path / "config.json").read_text())["num_hidden_layers"]
    )
    assert 4_000_000 < demo.weight_bytes < (demo.path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model"])
def test_a_gguf_is_told_by_its_first_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(weight_files.gguf())
    found = artefacts.inspect(tmp_path / name)
    assert (found.format, found.dtype, found.weight_bytes, found.has_chat_template) == ("gguf", "float16", 64, True)
    assert found.parameters == {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "vocab_size": 3,
    }  # fmt: skip


def test_the_type_of_most_bytes_counts(tmp_path):
    header = {
        "scales": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
        "bias": {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]},
        "weights": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
        "__metadata__": {"format": "pt"},
    }
    (tmp_path / "x").write_bytes(weight_files.safetensors(header, bytes(12)))
    assert artefacts.inspect(tmp_path / "x").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("architecture", "more", "mode"),
    [
        ("Qwen2ForCausalLM", {}, "Chat"),
        ("GPT2LMHeadModel", {}, "Chat"),
        ("BertModel", {}, "Embedding"),
        ("Qwen3ForCausalLM", {"modules__json": [{"path": "1_Pooling"}]}, "Embedding"),
        ("BertForSequenceClassification", {}, "Reranker"),
    ],
)
def test_the_architecture_tells_what_a_model_is_for(tmp_path, architecture, more, mode):
    assert artefacts.inspect(weight_files.folder(tmp_path, {"architectures": [architecture]}, **more)).mode == mode


def test_parameters_may_lie_under_text_config_or_be_given_per_layer(tmp_path):
    config = {"text_config": {"hidden_size": 128}, "num_key_value_heads": [2, 8, 4], "head_dim": None}
    found = artefacts.inspect(weight_files.folder(tmp_path, config)).parameters
    assert (found["hidden_size"], found["num_key_value_heads"]) == (128, 8)
    assert "head_dim" not in found


@pytest.mark.parametrize("value", [0, -1, 10**30, 1.5, "64", True, [], [8, -1]])
def test_impossible_parameters_are_refused(tmp_path, value):
    with pytest.raises(RefusedWeights, match="hidden_size"):
        artefacts.inspect(weight_files.folder(tmp_path, {"hidden_size": value}))


def test_a_download_that_was_cut_off_is_missing_weights(tmp_path):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    with pytest.raises(MissingWeights, match="model-00002"):
        artefacts.inspect(weight_files.folder(tmp_path, model__safetensors__index__json=index))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_weights_or_configuration_is_missing_them(tmp_path, name):
    (weight_files.folder(tmp_path) / name).unlink()
    with pytest.raises(MissingWeights):
        artefacts.inspect(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b" " * (2 * MIB)])
def test_a_configuration_that_is_no_object_is_refused(tmp_path, content):
    with pytest.raises(RefusedWeights):
        artefacts.inspect(weight_files.folder(tmp_path, config__json=content))


# --- code in disguise


def refused(folder: Path) -> str:
    with pytest.raises(RefusedWeights) as refusal:
        artefacts.inspect(folder)
    return str(refusal.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "training_args.bin", "rng_state.pth", "deep/x.PT", "a.pkl", "b.ckpt"]
)
def test_pickles_are_refused_and_never_loaded(tmp_path, name, protocol):
    folder, fired = weight_files.folder(tmp_path / "model"), tmp_path / "fired"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Canary(fired), protocol=protocol))
    assert name in refused(folder)
    assert not fired.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "optimizer"])
def test_a_pickle_under_another_name_is_refused(tmp_path, name):
    folder = weight_files.folder(tmp_path)
    (folder / name).write_bytes(pickle.dumps({}))
    assert name in refused(folder)


def test_a_torch_archive_is_refused_alone_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    assert "model.bin" in refused(tmp_path / "model.bin")


@pytest.mark.parametrize("name", ["modeling.py", "x.PY", "sub.so", "a.pyc", "weights.npy", "model.h5"])
def test_programs_are_refused(tmp_path, name):
    (weight_files.folder(tmp_path) / name).write_bytes(b"")
    assert name in refused(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "deep/processor_config.json", "other.json"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"auto_map": {"AutoModel": "evil.Model"}}',
        b'{"\\u0061uto_map": ["evil.Tokenizer", null]}',
        b'{"a": [{"auto_map": "elsewhere--evil.Model"}]}',
    ],
)
def test_a_request_for_remote_code_is_refused(tmp_path, name, content):
    path = weight_files.folder(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert "auto_map" in refused(tmp_path)


def test_auto_map_may_be_a_word_of_the_vocabulary(tmp_path):
    folder = weight_files.folder(
        tmp_path, vocab__json={"auto_map": 17}, tokenizer__json={"merges": ["auto _map", "auto_map x"]}
    )
    assert artefacts.inspect(folder).format == "safetensors"


def test_links_out_links_to_folders_and_special_files_are_refused(tmp_path):
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    linked = weight_files.folder(tmp_path / "linked")
    (linked / "generation_config.json").symlink_to(outside)
    assert "leads out" in refused(linked)
    nested = weight_files.folder(tmp_path / "nested")
    (nested / "sub").symlink_to(tmp_path)
    assert "link to another folder" in refused(nested)
    fifo = weight_files.folder(tmp_path / "fifo")
    os.mkfifo(fifo / "x.bin")
    assert "plain file" in refused(fifo)


# --- where


@pytest.mark.parametrize("name", ["llama", "/models/llama", "/data/llama", "/checkpoints/llama", "./llama", "llama/"])
def test_documents_paths_mean_the_tenants_folder(tenant, tenant_files, name):
    weight_files.folder(tenant_files / "llama")
    assert artefacts.locate(tenant, name) == tenant_files / "llama"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "/models", "/models/../../private/secret", "../other", "a/../../b", "a/..", "/", ".",
        "/proc/self/environ", "a\0b", "a\\b", "a\nb", "\ud800", "x" * 300, "ü" * 200, "/models/models/../../x",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(tenant, tenant_files, name):
    with pytest.raises(RefusedWeights):
        artefacts.locate(tenant, name)


def test_a_link_out_of_the_tenants_folder_is_refused(tenant, tenant_files, tmp_path):
    weight_files.folder(tmp_path / "foreign")
    (tenant_files / "link").symlink_to(tmp_path / "foreign")
    for name in ("link", "link/model.safetensors", "/models/link"):
        with pytest.raises(RefusedWeights):
            artefacts.locate(tenant, name)


def test_tenants_do_not_see_each_others_files(tenant, stranger, tenant_files):
    weight_files.folder(tenant_files / "llama")
    theirs = artefacts.locate(stranger.default_tenant, "llama")
    assert theirs != tenant_files / "llama"
    with pytest.raises(MissingWeights):
        artefacts.inspect(theirs)


def test_own_files_go_before_shared_ones_and_links_may_stay_within_a_shared_root(
    tenant, tenant_files, settings, tmp_path
):
    shared = tmp_path / "shared"
    settings.MODEL_ROOTS = [shared]
    blob = shared / "blobs" / "1"
    weight_files.folder(shared / "snapshot", model__safetensors=weight_files.safetensors())
    blob.parent.mkdir()
    (shared / "snapshot" / "model.safetensors").rename(blob)
    (shared / "snapshot" / "model.safetensors").symlink_to(blob)
    found = artefacts.locate(tenant, "snapshot")
    assert found == shared / "snapshot"
    assert artefacts.inspect(found, root=shared).weight_bytes == 8
    weight_files.folder(tenant_files / "snapshot")
    assert artefacts.locate(tenant, "snapshot") == tenant_files / "snapshot"


def test_the_demo_model_is_everybodys(tenant, tenant_files):
    assert artefacts.locate(tenant, "serai-demo") == settings.DEMO_MODEL.resolve()
    assert artefacts.locate(tenant, "/models/serai-demo") == settings.DEMO_MODEL.resolve()
    assert artefacts.locate(tenant, "generate.py").is_relative_to(tenant_files)


# --- hostile headers

BROKEN_SAFETENSORS = {
    "empty": b"",
    "shorter than its length": b"\x10\0\0",
    "header longer than the file": weight_files.safetensors(length=2**20),
    "header of 2**63 bytes": weight_files.safetensors(length=2**63),
    "no header": weight_files.safetensors(length=0),
    "a list": weight_files.safetensors(b"[]"),
    "no tensors": weight_files.safetensors({}),
    "only metadata": weight_files.safetensors({"__metadata__": {}}),
    "deeply nested": weight_files.safetensors(b'{"a":' * 60_000),
    "not UTF-8": weight_files.safetensors(b'{"\xff": 1}'),
    "digits without end": weight_files.safetensors(b'{"w": ' + b"9" * 10_000 + b"}"),
    **{
        f"tensor {number}": weight_files.safetensors({"w": entry})
        for number, entry in enumerate([
            None, [], 1, {}, {"dtype": "F16"},
            {"dtype": "F16", "shape": [4], "data_offsets": [0, 2**60]},
            {"dtype": "F16", "shape": [4], "data_offsets": [-8, 0]},
            {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]},
            {"dtype": "F16", "shape": [4], "data_offsets": [4, 12]},
            {"dtype": "F16", "shape": [4], "data_offsets": [0, 8, 8]},
            {"dtype": "F16", "shape": [4], "data_offsets": "08"},
            {"dtype": "F16", "shape": [4], "data_offsets": [0.0, 8.0]},
            {"dtype": "F16", "shape": [4], "data_offsets": [False, 8]},
            {"dtype": "F16", "shape": [-2, -2], "data_offsets": [0, 8]},
            {"dtype": "F16", "shape": [2**62, 2**62], "data_offsets": [0, 8]},
            {"dtype": "F16", "shape": [1] * 1000, "data_offsets": [0, 2]},
            {"dtype": "F99", "shape": [4], "data_offsets": [0, 8]},
            {"dtype": ["F16"], "shape": [4], "data_offsets": [0, 8]},
            {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
        ])
    },
    "overlap": weight_files.safetensors({
        "a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]},
    }),
    "data without a tensor": weight_files.safetensors(data=bytes(64)),
}  # fmt: skip
KEY = "general.architecture"
BROKEN_GGUF = {
    "only the magic": b"GGUF",
    "cut in the counts": weight_files.gguf()[:20],
    "version 1": weight_files.gguf(version=1),
    "version 4": weight_files.gguf(version=4),
    "big-endian": weight_files.gguf(version=3 << 24),
    "2**64 - 1 tensors": weight_files.gguf(counts=(2**64 - 1, 8)),
    "2**62 pairs": weight_files.gguf(counts=(1, 2**62)),
    "more tensors than there are": weight_files.gguf(counts=(4, 8)),
    "no tensors": weight_files.gguf(tensors=[]),
    "no data": weight_files.gguf(data=b""),
    "key of 2**63 bytes": b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**63) + bytes(200),
    "text of 2**63 bytes": weight_files.gguf({KEY: struct.pack("<IQ", weight_files.TEXT, 2**63)}),
    "array of 2**61 texts": weight_files.gguf({KEY: weight_files.texts(count=2**61)}),
    "array of 2**40 texts": weight_files.gguf({KEY: weight_files.texts("a", count=2**40)}),
    "array of 2**62 numbers": weight_files.gguf(
        {KEY: struct.pack("<IIQ", weight_files.ARRAY, weight_files.UINT32, 2**62)}
    ),
    "array of arrays": weight_files.gguf({KEY: struct.pack("<IIQ", weight_files.ARRAY, weight_files.ARRAY, 1)}),
    "value of an unknown type": weight_files.gguf({KEY: struct.pack("<I", 99)}),
    "array of an unknown type": weight_files.gguf({KEY: struct.pack("<IIQ", weight_files.ARRAY, 99, 1)}),
    "negative alignment": weight_files.gguf({"general.alignment": struct.pack("<Ii", 5, -32)}),
    "alignment of 2**31": weight_files.gguf({"general.alignment": weight_files.uint32(2**31)}),
    "alignment that is no power of two": weight_files.gguf({"general.alignment": weight_files.uint32(24)}),
    "alignment that is a text": weight_files.gguf({"general.alignment": weight_files.METADATA[KEY]}),
    "no layers": weight_files.gguf(weight_files.METADATA | {"llama.block_count": weight_files.uint32(0)}),
    "layers below zero": weight_files.gguf(weight_files.METADATA | {"llama.block_count": struct.pack("<Ii", 5, -1)}),
    "offset behind the file": weight_files.gguf(tensors=[weight_files.tensor(offset=2**40)]),
    "offset of 2**64 - 32": weight_files.gguf(tensors=[weight_files.tensor(offset=2**64 - 32)]),
    "offset that is not aligned": weight_files.gguf(tensors=[weight_files.tensor(offset=8)], data=bytes(128)),
    "larger than the file": weight_files.gguf(tensors=[weight_files.tensor(shape=(2**20,))]),
    "dimensions that overflow": weight_files.gguf(tensors=[weight_files.tensor(shape=(2**32, 2**32))]),
    "five dimensions": weight_files.gguf(tensors=[weight_files.tensor(shape=(1, 1, 1, 1, 1))]),
    "unknown type of a tensor": weight_files.gguf(tensors=[weight_files.tensor(kind=77)]),
    "half a block": weight_files.gguf(tensors=[weight_files.tensor(shape=(17,), kind=weight_files.Q4_0)]),
    "long name of a tensor": weight_files.gguf(tensors=[weight_files.tensor(name="n" * 65)]),
}


@pytest.mark.parametrize("content", [*BROKEN_SAFETENSORS.values(), *BROKEN_GGUF.values()],
                         ids=[*BROKEN_SAFETENSORS, *BROKEN_GGUF])  # fmt: skip
def test_a_hostile_header_is_refused_without_taking_memory_for_it(tmp_path, content):
    path = tmp_path / "model"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refused(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB + 4 * len(content)


def test_a_key_that_occurs_twice_is_refused(tmp_path):
    pair = weight_files.text(KEY) + weight_files.METADATA[KEY]
    (tmp_path / "model").write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + 2 * pair + weight_files.tensor() + bytes(200)
    )
    assert "twice" in refused(tmp_path / "model")


@pytest.mark.parametrize("whole", [weight_files.gguf(), weight_files.safetensors()], ids=["gguf", "safetensors"])
def test_every_truncated_file_is_refused(tmp_path, whole):
    path = tmp_path / "model"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("whole", [weight_files.gguf(), weight_files.safetensors()], ids=["gguf", "safetensors"])
def test_a_thousand_mutations_are_understood_or_refused(tmp_path, whole):
    chance = random.Random(20_240_101)
    path, outcomes = tmp_path / "model", set()
    for _number in range(1000):
        mutated = bytearray(whole)
        for _change in range(chance.randint(1, 8)):
            mutated[chance.randrange(len(mutated))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        path.write_bytes(mutated)
        try:
            found = artefacts.inspect(path)
        except RefusedWeights as refusal:
            outcomes.add(str(refusal))
        else:
            assert 0 <= found.weight_bytes <= len(whole)
    assert len(outcomes) >= 4  # they get past the first check


@pytest.fixture
def adapted(tenant_files, tenant):
    """A GGUF model of the tenant, looked at before a start, with that adapter."""
    (tenant_files / "base.gguf").write_bytes(weight_files.gguf())
    (tenant_files / "lora.gguf").write_bytes(weight_files.lora_gguf(4, 4, 1.0))

    def inspect_adapter(adapter: str) -> artefacts.Artefact:
        config = {"model_path": "base.gguf", "lora_path": adapter}
        return artefacts.check_startable(Model(tenant=tenant, name="m", framework="llama.cpp", config=config))

    return inspect_adapter


def test_an_adapter_is_found_where_weights_may_lie_and_counts_with_them(adapted):
    found = adapted("lora.gguf")
    assert (found.adapter.name, found.weight_bytes) == ("lora.gguf", 64 + 32)


@pytest.mark.parametrize("adapter", ["/etc/passwd", "../../globex/models/lora.gguf", "missing.gguf"])
def test_an_adapter_elsewhere_is_refused(adapted, adapter):
    with pytest.raises((RefusedWeights, MissingWeights)):
        adapted(adapter)


def test_an_adapters_path_never_reads_as_two(adapted, tenant_files):
    """The engine takes a comma for the end of one name and the beginning of another."""
    (tenant_files / "lora.gguf,").mkdir()
    (tenant_files / "lora.gguf," / "other.gguf").write_bytes(weight_files.lora_gguf(4, 4, 1.0))
    with pytest.raises(RefusedWeights):
        adapted("lora.gguf,/other.gguf")
