"""The benchmark runs and accounts for every request; its figures are nobody's assertion."""

import json

import pytest
from django.core.management import CommandError, call_command

from benchmarks import start


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
