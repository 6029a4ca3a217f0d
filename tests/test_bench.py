"""The benchmark runs and accounts for every request; its figures are nobody's assertion."""

import json

import pytest
from django.core.management import CommandError, call_command


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


def test_sockets_are_measured_on_a_running_product_only(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    with pytest.raises(CommandError, match="manage.py up"):
        call_command("bench", "sockets", "--quick")
