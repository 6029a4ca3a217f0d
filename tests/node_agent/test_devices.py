"""The devices of the machines: as they are measured, and as the manager document shows them."""

from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest
from django.utils import timezone

from core.units import MIB
from inference.models import Device, Node
from node_agent import devices, node

INFO = "/api/devices/info"


@pytest.fixture
def machine(db) -> Node:
    return Node.objects.create(name="box", data_folder="/data", heartbeat_at=timezone.now())


def device(machine: Node, kind: str, index: int = 0, **fields) -> Device:
    figures = {
        "name": f"{kind} {index}", "total_bytes": 16384 * MIB, "usable_bytes": 15000 * MIB, "used_bytes": 8192 * MIB,
        "measured_at": timezone.now(), **fields,
    }  # fmt: skip
    return Device.objects.create(node=machine, kind=kind, index=index, **figures)


def test_devices_are_shown_as_the_document_has_them(api, operator, machine):
    device(machine, "cuda", 0, name="NVIDIA RTX 4060", total_bytes=8192 * MIB, used_bytes=2048 * MIB, temperature=65)
    device(machine, "cuda", 1, name="NVIDIA V100", temperature=45)
    device(machine, "cpu", total_bytes=32768 * MIB, cores=16)
    assert api(operator).get(INFO).json() == {
        "success": True,
        "devices": {
            "cuda": {
                "online": True,
                "info": {
                    "device_count": 2,
                    "devices": [
                        {"name": "NVIDIA RTX 4060", "memory_total": 8192, "memory_used": 2048, "memory_free": 6144,
                         "temperature": 65},
                        {"name": "NVIDIA V100", "memory_total": 16384, "memory_used": 8192, "memory_free": 8192,
                         "temperature": 45},
                    ],
                },
            },
            "cpu": {
                "online": True,
                "info": {"cpu_count": 16, "memory_total": 32768, "memory_used": 8192, "memory_free": 24576},
            },
        },
    }  # fmt: skip


def test_processors_of_several_machines_are_summed_up(api, operator, machine):
    device(machine, "cpu", cores=16)
    other = Node.objects.create(name="other", data_folder="/data", heartbeat_at=timezone.now())
    device(other, "cpu", cores=8)
    shown = api(operator).get(INFO).json()["devices"]["cpu"]["info"]
    assert shown == {"cpu_count": 24, "memory_total": 32768, "memory_used": 16384, "memory_free": 16384}


def test_a_kind_that_is_nowhere_is_offline_and_still_told(api, operator, db):
    assert api(operator).get(INFO).json()["devices"] == {
        "cuda": {"online": False, "info": {"device_count": 0, "devices": []}},
        "cpu": {
            "online": False,
            "info": {"cpu_count": 0, "memory_total": 0, "memory_used": 0, "memory_free": 0},
        },
    }


@pytest.mark.parametrize("silent", ["node", "device"])
def test_what_is_not_measured_any_more_is_offline(api, operator, machine, silent):
    device(machine, "cuda")
    long_ago = timezone.now() - timedelta(hours=1)
    Node.objects.update(heartbeat_at=long_ago) if silent == "node" else Device.objects.update(measured_at=long_ago)
    assert api(operator).get(INFO).json()["devices"]["cuda"]["online"] is False


def test_nobody_but_operators_learns_what_machines_there_are(api, owner, stranger, key):
    assert [api(who).get(INFO).status_code for who in (owner, stranger, key())] == [403, 403, 403]


def test_the_agent_writes_what_it_measures_here(api, operator, machine):
    node.record_devices(machine, devices.read_devices(), ours={}, suspicions={})
    shown = api(operator).get(INFO).json()["devices"]["cpu"]["info"]
    assert shown["cpu_count"] == psutil.cpu_count()
    assert shown["memory_total"] == psutil.virtual_memory().total // MIB
    assert 0 < shown["memory_used"] < shown["memory_total"]
    assert shown["memory_free"] == shown["memory_total"] - shown["memory_used"]


def test_cards_are_read_from_nvidias_library(nvml):
    first, second, processor = devices.read_devices()
    assert (first.kind, first.index, first.name, first.temperature) == ("cuda", 0, "NVIDIA RTX 4060", 65)
    assert (first.total, first.used) == (8192 * MIB, 2048 * MIB)
    assert (second.index, second.temperature) == (1, None)
    assert processor.cores == psutil.cpu_count()


def test_the_hottest_sensor_of_the_processor_counts(monkeypatch):
    chips = {
        "coretemp": [SimpleNamespace(current=41.0), SimpleNamespace(current=52.6)],
        "nvme": [SimpleNamespace(current=70.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    assert devices.read_devices()[-1].temperature == 53
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    assert devices.read_devices()[-1].temperature is None
