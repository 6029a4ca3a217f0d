"""The catalogue of all metrics. docs/monitoring.md lists the same ones; a test compares the two."""

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """How samples add up: gauges have a mean, counters a sum of increases, histograms a distribution."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class MetricSubject(StrEnum):
    """What a metric describes. This decides which labels its series have."""

    HOST = "host"  # node
    GPU = "gpu"  # node, device
    ENGINE = "engine"  # node, replica, model, tenant (the model's owner)
    REQUESTS = "requests"  # model, tenant (who asked), and a cause where they failed


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    kind: MetricKind
    subject: MetricSubject
    description: str


# Upper bounds of the histogram buckets, in seconds; one more bucket counts what lies above the last bound.
BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0,
    1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 40.0, 60.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0,
)  # fmt: skip

G, C, H = MetricKind.GAUGE, MetricKind.COUNTER, MetricKind.HISTOGRAM
HOST, GPU, ENGINE, REQUESTS = MetricSubject.HOST, MetricSubject.GPU, MetricSubject.ENGINE, MetricSubject.REQUESTS
CATALOGUE = [
    Metric("cpu_percent", "%", G, HOST, "Share of all cores that was busy since the last sample."),
    Metric("memory_percent", "%", G, HOST, "Main memory in use."),
    Metric("memory_used", "MiB", G, HOST, "Main memory in use: the total less what is available."),
    Metric("disk_percent", "%", G, HOST, "Used part of the disk that the data folder is on."),
    Metric("disk_read", "bytes", C, HOST, "Read from all disks."),
    Metric("disk_written", "bytes", C, HOST, "Written to all disks."),
    Metric("network_received", "bytes", C, HOST, "Received on all interfaces but loopback."),
    Metric("network_sent", "bytes", C, HOST, "Sent on all interfaces but loopback."),
    Metric("gpu_utilization", "%", G, GPU, "Share of time in which a kernel ran."),
    Metric("gpu_memory_used", "MiB", G, GPU, "Device memory in use, by whomever."),
    Metric("gpu_memory_percent", "%", G, GPU, "The same as a share of the device's memory."),
    Metric("gpu_temperature", "°C", G, GPU, "Core temperature."),
    Metric("gpu_power", "W", G, GPU, "Power draw."),
    Metric("gpu_processes", "processes", G, GPU, "Processes that hold memory of the device."),
    Metric("engine_running", "requests", G, ENGINE, "Requests that the engine works on."),
    Metric("engine_waiting", "requests", G, ENGINE, "Requests that wait inside the engine."),
    Metric("engine_kv_usage", "%", G, ENGINE, "KV cache in use."),
    Metric("engine_prompt_tokens", "tokens", C, ENGINE, "Prompt tokens by the engine's own counter."),
    Metric("engine_generation_tokens", "tokens", C, ENGINE, "Generated tokens by the engine's own counter."),
    Metric("engine_cached_tokens", "tokens", C, ENGINE, "Prompt tokens that were not computed again."),
    Metric("engine_prefix_queries", "tokens", C, ENGINE, "Tokens looked up in the prefix cache."),
    Metric("engine_prefix_hits", "tokens", C, ENGINE, "Tokens found in the prefix cache."),
    Metric("engine_preemptions", "requests", C, ENGINE, "Requests put back for lack of KV cache."),
    Metric("engine_ttft", "s", H, ENGINE, "Time to the first token, as the engine measures it."),
    Metric("engine_tpot", "s", H, ENGINE, "Time per output token after the first, as the engine measures it."),
    Metric("requests", "requests", C, REQUESTS, "Requests that were admitted, by the minute of their start."),
    Metric("failed_requests", "requests", C, REQUESTS, "Those of them that failed on our side, by cause."),
    Metric("response_time", "s", H, REQUESTS, "From the request's first byte to the end of its reply."),
    Metric("time_to_first_token", "s", H, REQUESTS, "From the request's first byte to the first of its reply."),
    Metric("queue_time", "s", H, REQUESTS, "Wait for a model to start or for room."),
    Metric("prompt_tokens", "tokens", C, REQUESTS, "Prompt tokens, as metered."),
    Metric("completion_tokens", "tokens", C, REQUESTS, "Completion tokens that reached the client, as metered."),
    Metric("cached_tokens", "tokens", C, REQUESTS, "Prompt tokens that came out of a cache, as metered."),
]
METRICS = {metric.name: metric for metric in CATALOGUE}
