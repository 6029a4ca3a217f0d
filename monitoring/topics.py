"""The topics that a socket can subscribe to, each with its events."""

from inference.instances.transitions import STATUS_EVENT as MODEL_STATUS
from training.jobs.transitions import EVENT as TRAINING_PROGRESS

GPU_METRICS, HOST_METRICS = "gpu_metrics_update", "host_metrics_update"
SYSTEM_ALERT, LOG = "system_alert", "log"

TOPICS = {
    "model_status": [MODEL_STATUS],
    "gpu_metrics": [GPU_METRICS, HOST_METRICS],
    "system_alerts": [SYSTEM_ALERT],
    "training_progress": [TRAINING_PROGRESS],
    "logs": [],  # the named model's lines, which are not a latest state (monitoring/sockets/followed.py)
}
