"""The console's forms of a model and its aliases: the rules of the API apply to operators too."""

from django import forms

from core.errors import InvalidRequest, ModelAlreadyExists
from models_app import services
from models_app.models import Model

CHECKED_FIELDS = ("tenant", "name", "framework", "config", "resource_requirements", "profiles")


class ModelForm(forms.ModelForm):
    def clean(self):
        super().clean()
        fields = self.cleaned_data
        for name in services.MERGED & fields.keys():
            fields[name] = fields[name] or {}  # an empty text box
        fields["profiles"] = fields.get("profiles") or []
        if not self.errors:
            given = {name: fields.get(name, getattr(self.instance, name, None)) for name in CHECKED_FIELDS}
            self._check_model(Model(pk=self.instance.pk, **given))
        return fields

    def _check_model(self, model: Model) -> None:
        try:
            services.check_model(model)
        except InvalidRequest as error:
            for path, text in (error.details or {error.param or "": error.message}).items():
                field, _dot, option = path.partition(".")
                self.add_error(field if field in self.fields else None, f"{option}: {text}" if option else str(text))
        except ModelAlreadyExists as error:
            self.add_error("name", str(error.message))


class AliasFormSet(forms.BaseInlineFormSet):
    @property
    def names(self) -> list[str]:
        """The aliases that the model will have."""
        kept_forms = [form for form in self.forms if form not in self.deleted_forms]
        return [form.cleaned_data["name"] for form in kept_forms if form.cleaned_data.get("name")]

    def clean(self):
        super().clean()
        if any(self.errors) or not self.instance.tenant_id:
            return  # they, or the model's own errors, are shown already
        try:
            services.claim_names(self.instance, self.names)
        except InvalidRequest as error:
            raise forms.ValidationError([str(text) for text in error.details.values()]) from None
        except ModelAlreadyExists as error:
            raise forms.ValidationError(f"{error.details['name']}: {error.message}") from None
