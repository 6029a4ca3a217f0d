from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = _("Training")

    def ready(self):
        from inference.agent import further
        from models_app import lifecycle
        from training.jobs import services
        from training.runner.runner import Runner

        lifecycle.register_need(services.why_model_is_needed)
        further.register(Runner, table="training_trainingjob")
