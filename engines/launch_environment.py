"""Environment variables that the programs of engines and trainers have in common."""

from collections.abc import Iterable

OFFLINE = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def cuda_variables(device_indexes: Iterable[int]) -> dict[str, str]:
    """The process sees only these GPUs, numbered as NVML numbers them."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, device_indexes)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
