from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MonitoringConfig(AppConfig):
    name = "monitoring"
    verbose_name = _("Monitoring")

    def ready(self):
        from monitoring.figures.sampling import NodeSampler
        from node_agent import sampling

        sampling.register(NodeSampler())
