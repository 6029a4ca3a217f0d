from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = _("Training")

    def ready(self):
        from models_app import lifecycle
        from training.jobs import services

        lifecycle.register_need(services.why_model_is_needed)
