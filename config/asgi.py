"""The one ASGI application: sends each connection to the data plane, Django or the sockets by its path."""

import os
import warnings

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# static files come as plain iterators, which are small and in memory
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous")
django.setup(set_prefix=False)  # first: it fills the app registry

from django.conf import settings  # noqa: E402

from accounts import configuration  # noqa: E402
from core import periodic  # noqa: E402
from core.body_limit import BodyLimit  # noqa: E402
from core.streaming import StreamingHandler  # noqa: E402
from gateway.asgi import gateway  # noqa: E402
from monitoring.sockets.routing import sockets  # noqa: E402
from training import upload_paths  # noqa: E402

MULTIPART_OVERHEAD = 64 * 1024  # bytes of a multipart body around its file
upload_limits = dict.fromkeys(upload_paths.UPLOAD_PATHS, settings.DATASET_MAX_BYTES + MULTIPART_OVERHEAD)
limited_django_app = BodyLimit(
    StreamingHandler(uploads=upload_paths.UPLOAD_PATHS), settings.DATA_UPLOAD_MAX_MEMORY_SIZE, upload_limits
)


async def application(scope, receive, send):
    """Lifespan messages go to the data plane: it loads its snapshot and finishes open requests."""
    if scope["type"] == "lifespan":
        configuration.watch_changes()
        periodic.watch_loops()
    if scope["type"] == "websocket":
        await sockets(scope, receive, send)
    elif scope["type"] == "lifespan" or gateway.handles(scope) and not upload_paths.is_training_path(scope["path"]):
        await gateway(scope, receive, send)
    else:
        await limited_django_app(scope, receive, send)
