from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = _("Training")

    def ready(self):
        from models_app import model_runtime
        from node_agent import extra_workloads
        from training.jobs import services
        from training.runner.runner import Runner

        model_runtime.register_need(services.why_model_is_needed)
        extra_workloads.register(Runner, table="training_trainingjob")
