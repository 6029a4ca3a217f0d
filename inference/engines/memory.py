"""The old path of engines/memory.py."""

from engines.memory import adapter_bytes, configured_context, context_length, cpu_threads, kv_bytes_per_token
from inference.engines import warn

__all__ = ["adapter_bytes", "configured_context", "context_length", "cpu_threads", "kv_bytes_per_token"]

warn("memory")
