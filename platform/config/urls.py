"""Every HTTP route of Django; the data plane's are in inference/gateway/asgi.py, sockets in config/asgi.py."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("console/", admin.site.urls)]
