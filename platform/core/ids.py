"""Readable ids: a UUID with a prefix that says what it identifies."""

import uuid
from functools import partial

LENGTH = 48


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4()}"


new_tenant_id = partial(new_id, "tenant")
new_user_id = partial(new_id, "user")
new_key_id = partial(new_id, "key")
new_invitation_id = partial(new_id, "invitation")
new_model_id = partial(new_id, "model")
new_node_id = partial(new_id, "node")
new_instance_id = partial(new_id, "instance")
new_task_id = partial(new_id, "task")
new_dataset_id = partial(new_id, "dataset")
new_job_id = partial(new_id, "job")
new_adapter_id = partial(new_id, "adapter")
new_version_id = partial(new_id, "version")
