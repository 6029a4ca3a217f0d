"""The devices of all online nodes as the manager API shows them; memory in MiB, temperature in °C."""

from core.units import MIB
from inference.models import Device, DeviceKind


def describe() -> dict:
    """A kind without devices is offline. CPUs are summed up over the nodes, GPUs are listed one by one."""
    online = Device.objects.online().order_by("node__name", "kind", "index")
    gpus = [device for device in online if device.kind == DeviceKind.CUDA]
    processors = [device for device in online if device.kind == DeviceKind.CPU]
    return {
        "cuda": {"online": bool(gpus), "info": {"device_count": len(gpus), "devices": [_gpu(gpu) for gpu in gpus]}},
        "cpu": {"online": bool(processors), "info": _processors(processors)},
    }


def _gpu(device: Device) -> dict:
    return {"name": device.name, **_memory([device]), "temperature": device.temperature}


def _processors(devices: list[Device]) -> dict:
    return {"cpu_count": sum(device.cores or 0 for device in devices), **_memory(devices)}


def _memory(devices: list[Device]) -> dict:
    total = sum(device.total_bytes for device in devices) // MIB
    used = sum(device.used_bytes for device in devices) // MIB
    return {"memory_total": total, "memory_used": used, "memory_free": total - used}
