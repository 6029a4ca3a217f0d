from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ModelsAppConfig(AppConfig):
    name = "models_app"
    verbose_name = _("Catalogue")

    def ready(self):
        from accounts.references import register_model_resolver
        from models_app.services import resolve_id

        register_model_resolver(resolve_id)
