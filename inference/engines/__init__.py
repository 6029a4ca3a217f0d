"""The old places of modules in `engines`, for one release: engines of operators may still import from here."""

import logging

logger = logging.getLogger(__name__)


def warn(module: str) -> None:
    """Name the new path of `module`, which was imported by its old one."""
    logger.warning("inference.engines.%s has moved: import from engines.%s", module, module)
