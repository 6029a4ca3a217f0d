"""What a socket can subscribe to: each topic with the events that it brings."""

from inference.transitions import EVENT as MODEL_STATUS

GPU_METRICS, HOST_METRICS = "gpu_metrics_update", "host_metrics_update"
SYSTEM_ALERT = "system_alert"

TOPICS = {
    "model_status": [MODEL_STATUS],
    "gpu_metrics": [GPU_METRICS, HOST_METRICS],
    "system_alerts": [SYSTEM_ALERT],
}
ABOUT_MODELS = frozenset([MODEL_STATUS])  # the key of these events is a model's id
