"""Hyperparameters: the engine document's defaults, ranges, what wins over what, and what auto chooses."""

import pytest

from core.errors import InvalidRequest
from training.jobs import recipe
from training.jobs.recipe import Hyperparameters

DOCUMENTS_EXAMPLE = (
    {
        "batchSize": 4, "learningRate": 2e-4, "epochs": 3, "maxSeqLength": 2048, "loraRank": 64, "loraAlpha": 16,
        "saveSteps": 100, "evalSteps": 100,
    },
    {"r": 64, "loraAlpha": 16, "loraDropout": 0.05, "targetModules": ["q_proj", "v_proj"], "bias": "none"},
)  # fmt: skip


def refused(hyper_params=None, lora_config=None) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refusal:
        recipe.read(hyper_params, lora_config)
    return refusal.value.details


def test_what_is_left_out_is_as_the_document_says():
    assert recipe.read() == recipe.read({}, {}) == Hyperparameters(
        batch_size=4, learning_rate=2e-4, epochs=3, max_seq_length=2048, rank=64, alpha=16, dropout=0.05,
        save_steps=100, eval_steps=100, seed=42, target_modules=(), bias="none",
    )  # fmt: skip


def test_the_documents_example_is_read():
    assert recipe.read(*DOCUMENTS_EXAMPLE) == Hyperparameters(target_modules=("q_proj", "v_proj"))


def test_lora_config_wins():
    read = recipe.read({"loraRank": 64, "loraAlpha": 16, "loraDropout": 0.1}, {"r": 8, "loraAlpha": 32})
    assert (read.rank, read.alpha, read.dropout) == (8, 32, 0.1)


def test_a_whole_number_is_a_number():
    assert recipe.read({"learningRate": 1, "loraDropout": 0}).learning_rate == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1), ("epochs", 0), ("epochs", 1.5), ("epochs", "3"), ("epochs", True), ("epochs", None),
        ("epochs", 1001), ("batchSize", 0), ("batchSize", "auto"), ("learningRate", 0), ("learningRate", -1e-4),
        ("learningRate", 2), ("learningRate", float("nan")), ("learningRate", "fast"), ("maxSeqLength", 8),
        ("loraRank", 0), ("loraRank", 513), ("loraRank", "auto"), ("loraAlpha", 0), ("loraDropout", 1),
        ("loraDropout", -0.1), ("saveSteps", 0), ("evalSteps", 0), ("seed", -1), ("seed", 2**31),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_by_name(name, value):
    details = refused({name: value})
    assert list(details) == [f"hyperParams.{name}"]
    assert details[f"hyperParams.{name}"].startswith("Expected")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("r", 0, "from 1 to 512"), ("r", "8", "from 1 to 512"), ("targetModules", [], "such as q_proj"),
        ("targetModules", "q_proj", "Expected a list"), ("targetModules", ["q_proj", 1], "Expected a list"),
        ("targetModules", [".*"], "such as q_proj"), ("targetModules", ["q_proj\n"], "such as q_proj"),
        ("bias", "some", "Expected one of"), ("bias", "all", "Only none"), ("bias", "lora_only", "Only none"),
    ],
)  # fmt: skip
def test_a_wrong_lora_config_is_refused_by_name(name, value, said):
    details = refused(lora_config={name: value})
    assert list(details) == [f"loraConfig.{name}"]
    assert said in details[f"loraConfig.{name}"]


def test_unknown_names_are_told_with_those_that_are_known():
    details = refused({"learning_rate": 1e-4, "path": "/"}, {"rank": 8, "bogus\n": 1})
    assert list(details) == ["hyperParams.learning_rate", "hyperParams.path", "loraConfig.rank", "loraConfig.bogus\n"]
    assert all("no such hyperparameter" in problem for problem in details.values())
    assert "learningRate" in details["hyperParams.learning_rate"]
    assert "targetModules" in details["loraConfig.rank"]


@pytest.mark.parametrize("value", [[], "x", 1, 0, False])
def test_what_is_no_object_is_refused(value):
    assert refused(value, value) == {"hyperParams": "Expected an object.", "loraConfig": "Expected an object."}


AUTO = {"learningRate": "auto", "epochs": "auto"}


@pytest.mark.parametrize(
    ("parameters", "rows", "learning_rate", "epochs"),
    [
        (500_000, 24, 5e-3, 20),  # 120 steps, as measured on the demo model
        (500_000, 3, 5e-3, 50),
        (500_000_000, 100, 5e-4, 5),
        (7_000_000_000, 24, 2e-4, 5),
        (7_000_000_000, 10_000, 2e-4, 1),
        (70_000_000_000, 50, 1e-4, 3),
    ],
)
def test_auto_suits_the_models_size_and_the_rows(parameters, rows, learning_rate, epochs):
    settled = recipe.read(AUTO).resolve_defaults(parameters=parameters, rows=rows)
    assert (settled.learning_rate, settled.epochs) == (learning_rate, epochs)


def test_what_is_given_is_not_changed():
    given = recipe.read({"learningRate": 1e-3, "epochs": 7})
    assert given.resolve_defaults(parameters=500_000, rows=24) == given


def test_every_hyperparameter_has_its_place_in_a_recipe():
    assert {*recipe.TABLES["hyperParams"], *recipe.TABLES["loraConfig"]} == set(recipe.FIELDS)
    assert set(recipe.FIELDS.values()) == set(recipe.TABLES["recipe"]) == set(Hyperparameters.__dataclass_fields__)


def test_a_recipe_is_read_by_the_names_of_its_own_fields_too():
    by_size = Hyperparameters(learning_rate=None, epochs=None)
    assert recipe.read_fields() == recipe.read_fields({}) == by_size
    read = recipe.read_fields({"rank": 8, "learning_rate": "auto", "epochs": 2, "target_modules": ["q_proj"]})
    assert read == Hyperparameters(rank=8, learning_rate=None, epochs=2, target_modules=("q_proj",))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"rank": 0}, "recipe.rank"), ({"loraRank": 8}, "recipe.loraRank"), ({"epochs": -1}, "recipe.epochs"),
        ({"bias": "all"}, "recipe.bias"), ({"target_modules": []}, "recipe.target_modules"), ([], "recipe"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_its_name(values, field):
    with pytest.raises(InvalidRequest) as refusal:
        recipe.read_fields(values)
    assert list(refusal.value.details) == [field]


def test_rows_are_not_longer_than_the_model_takes():
    assert Hyperparameters().resolve_defaults(parameters=1, rows=1, context=512).max_seq_length == 512
    assert Hyperparameters(max_seq_length=64).resolve_defaults(parameters=1, rows=1, context=512).max_seq_length == 64
