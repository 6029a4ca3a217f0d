from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InferenceConfig(AppConfig):
    name = "inference"
    verbose_name = _("Serving")

    def ready(self):
        from inference.serving.runtime import InferenceRuntime
        from models_app import model_runtime

        model_runtime.register_runtime(InferenceRuntime())
