from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = _("Training")

    def ready(self):
        from models_app import model_runtime
        from node_agent import extra_workloads
        from training.jobs import services
        from training.runner.runner import TrainingRunner

        model_runtime.register_dependency(services.why_model_is_needed)
        extra_workloads.register(TrainingRunner, table="training_trainingjob")
