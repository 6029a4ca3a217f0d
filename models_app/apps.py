from django.apps import AppConfig


class ModelsAppConfig(AppConfig):
    name = "models_app"

    def ready(self):
        from accounts.references import register_model_resolver
        from models_app.services import resolve_id

        register_model_resolver(resolve_id)
