"""Downloads weights from the hub with the Python of the engine's environment: this one has no hub client."""

import re
import shutil
import subprocess
from pathlib import Path

from engines import install

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
ENGINE = "vllm"
FILE_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "*.tiktoken"]
FAILED = 3
DOWNLOAD_SCRIPT = f"""
import sys
from huggingface_hub import snapshot_download
try:
    snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns=sys.argv[3:])
except Exception as error:
    print(type(error).__name__, " ".join(str(error).split())[:500])
    sys.exit({FAILED})
"""
OFFLINE_ERRORS = re.compile(r"LocalEntryNotFound|Connect|Offline|Timeout|resolve|unreachable", re.IGNORECASE)
NOT_FOUND_ERRORS = re.compile(r"RepositoryNotFound|GatedRepo|401|403|404")


class HubDownloadError(Exception):
    """The message says why the download failed and what to do."""


def download(hub_id: str, folder: Path) -> None:
    """Put the weights, configuration and tokenizer of `hub_id` into `folder`; progress goes to the terminal.

    Raises NotFetched.
    """
    if not install.is_ready(ENGINE):
        raise HubDownloadError(
            "The hub's client comes with the engine: run python3 manage.py engine install vllm first."
        )
    python = install.environment_python(ENGINE)
    done = subprocess.run(
        [str(python), "-c", DOWNLOAD_SCRIPT, hub_id, str(folder), *FILE_PATTERNS],
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise HubDownloadError(_explain(hub_id, done.stdout.strip()))
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own download records


def _explain(hub_id: str, problem: str) -> str:
    if NOT_FOUND_ERRORS.search(problem):
        return (
            f"The hub has no {hub_id} that you may read. For one that asks for an agreement, set HF_TOKEN. ({problem})"
        )
    if OFFLINE_ERRORS.search(problem):
        return (
            "The hub cannot be reached. Set HF_ENDPOINT to a mirror, or fetch the files on another machine and "
            f"give their folder: python3 manage.py model add <folder>. ({problem})"
        )
    return f"The files did not come: {problem or 'the download was interrupted'}"
