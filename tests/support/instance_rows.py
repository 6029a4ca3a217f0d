"""Rows as an agent writes them: a node with a device, and instances in any state."""

import threading
import time
from collections.abc import Callable

from django.db import connection
from django.utils import timezone

from core.units import GIB
from inference import memory_ledger
from inference.instances.transitions import USE_BY_STATE
from inference.models import Device, Instance, InstanceState, Node, Use


def node(name: str = "box", engines: dict | None = None, usable: int = 8 * GIB) -> Node:
    """A node with one CPU device, whose agent has just sent a heartbeat."""
    engines = {"vllm": ""} if engines is None else engines
    made = Node.objects.create(name=name, data_folder="/data", engines=engines, heartbeat_at=timezone.now())
    Device.objects.create(node=made, kind="cpu", name="CPU", total_bytes=2 * usable, usable_bytes=usable)
    return made


def instance(model, state: InstanceState, **fields) -> Instance:
    where = Node.objects.first() or node()
    options = {"healthy": state == InstanceState.READY, "served_name": model.name, "running_generation": 1, **fields}
    return Instance.objects.create(tenant_id=model.tenant_id, model=model, node=where, state=state, **options)


def reserve(instance: Instance, size: int) -> None:
    """Claim memory in the ledger, on the only device of the instance's node."""
    memory_ledger.claim(instance.pk, {instance.node.devices.get().pk: size})
    memory_ledger.record_use(instance.pk, USE_BY_STATE.get(instance.state, Use.RESERVED))


def stop_on_request(instance: Instance, seconds: float = 15) -> Callable[[], dict]:
    """A minimal agent: sets the row to stopped once a stop is requested. Returns a function that waits for that."""
    request = {}

    def watch() -> None:
        deadline = time.monotonic() + seconds
        rows = Instance.objects.filter(pk=instance.pk, desired="stopped")
        while time.monotonic() < deadline and not request:
            request.update(rows.values("desired", "force_stop").first() or {})
            time.sleep(0.05)
        rows.update(state=InstanceState.STOPPED)
        connection.close()

    thread = threading.Thread(target=watch)
    thread.start()

    def wait() -> dict:
        thread.join()
        return request

    return wait
