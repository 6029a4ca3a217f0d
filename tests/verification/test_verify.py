"""`manage.py verify`: what faults leave behind, in a small dose; docs/reliability.md has the large ones."""

import json
import os
import subprocess
import sys

from launcher.data_folder import ROOT
from verification import fault_plans


def verify(tmp_path, *words: str) -> dict:
    """The figures; the command brings a product of its own."""
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "manage.py"), "verify", *words, "--out", str(out)]
    done = subprocess.run(command, env=os.environ | {"SERAI_NO_VENV": "1"}, capture_output=True, text=True, timeout=600)
    assert out.exists(), done.stderr[-3000:]
    results = json.loads(out.read_text())
    assert results["broken"] == [], done.stderr[-6000:]
    assert done.returncode == 0
    return results


def test_equal_seeds_make_equal_sequences_and_others_others():
    assert fault_plans.make(7) == fault_plans.make(7)
    assert len({str(fault_plans.make(seed)) for seed in range(50)}) == 50


def test_ten_sequences_of_starts_stops_kills_and_lost_stores_leave_what_the_rows_say(tmp_path):
    results = verify(tmp_path, "lifecycle", "--sequences", "10", "--together", "5", "--seed", "10")
    assert results["sequences"] == 10
    assert {"start", "kill a worker", "lose Valkey", "end Postgres"} <= results["steps"].keys()


def test_no_stream_breaks_while_models_are_restarted_scaled_and_evicted_and_both_stores_die(tmp_path):
    results = verify(tmp_path, "streams", "--clients", "40")
    assert all(outcomes["whole"] > 0 for outcomes in results["streams"].values())
    assert len(results["tasks"]) == 9
    assert set(results["tasks"].values()) == {"succeeded"}
