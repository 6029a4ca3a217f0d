"""A real uvicorn in this process, over the test database, for tests that need sockets or raw headers."""

import socket
import threading
import time

import pytest
import uvicorn
from asgiref.sync import SyncToAsync
from django.db import connections


@pytest.fixture
def address(transactional_db):
    """host:port of Django and the sockets; the data plane is off."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config("config.asgi:application", lifespan="off", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()
