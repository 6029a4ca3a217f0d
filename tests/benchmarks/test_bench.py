"""The benchmark runs and accounts for every request; its figures are nobody's assertion."""

import json

import pytest
from django.core.management import CommandError, call_command

from benchmarks import start, training
from training.trainer import spec as specs


def test_the_quick_benchmark_measures_every_scenario_without_an_error(tmp_path, capsys):
    out = tmp_path / "figures.json"
    call_command("bench", "--quick", "--out", str(out))
    results = json.loads(out.read_text())
    assert set(results["scenarios"]) == {"json c=1", "json c=64", "stream c=1", "stream 256 x 50/s"}
    for targets in results["scenarios"].values():
        assert {"direct", "gateway"} <= set(targets)
        assert all(
            figures["errors"] == 0 and figures["requests_s"] + figures["events_s"] > 0 for figures in targets.values()
        )
    assert "ratios" in capsys.readouterr().out


@pytest.mark.parametrize("subject", ["sockets", "start"])
def test_sockets_and_starts_are_measured_on_a_running_product_only(settings, tmp_path, subject):
    settings.DATA_DIR = tmp_path
    with pytest.raises(CommandError, match="manage.py up"):
        call_command("bench", subject, "--quick")


def test_by_hand_means_the_same_options_without_our_launcher_and_its_environment(tmp_path):
    options = ["--model", "/m", "--served-model-name", "m", "--uds", "/ours/engine.sock", "--enforce-eager"]
    launch = {"argv": ["/env/python", "/ours/launcher.py", *options], "env": {"PATH": "/bin", "OMP_NUM_THREADS": "2"}}
    command, environment = start.by_hand(launch, tmp_path / "s")
    assert command == [
        "/env/python", "-m", "vllm.entrypoints.openai.api_server",
        "--model", "/m", "--served-model-name", "m", "--uds", str(tmp_path / "s"), "--enforce-eager",
    ]  # fmt: skip
    assert environment == {"PATH": "/bin"}


def test_a_training_is_measured_in_the_engines_environment_only(monkeypatch):
    monkeypatch.setattr(training.install, "is_ready", lambda engine: False)
    with pytest.raises(CommandError, match="engine install vllm"):
        call_command("bench", "training", "--quick")


def test_trainings_are_compared_step_by_step():
    steps = [{"loss": 4.0 - number / 100, "at": number * 0.05} for number in range(training.STEPS)]
    other = [step | {"loss": step["loss"] + (0.25 if number == 7 else 0)} for number, step in enumerate(steps)]
    assert training.greatest_difference({"steps": steps}, {"steps": other}) == pytest.approx(0.25)
    assert training.step_ms(steps) == pytest.approx(50)


def test_both_trainings_get_a_spec_of_as_many_steps_as_are_reported(tmp_path):
    training.prepare(tmp_path)
    spec = specs.load(tmp_path / "spec.json")
    assert spec.recipe.total_steps(training.ROWS) == training.STEPS >= 200
