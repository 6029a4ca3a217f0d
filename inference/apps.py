from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self):
        from inference.lifecycle import Lifecycle
        from models_app import lifecycle

        lifecycle.register(Lifecycle())
