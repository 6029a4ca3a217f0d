"""What /openapi.json says about credentials."""

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension

from accounts.tickets import PARAMETER


class CredentialScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.authentication.CredentialAuthentication"
    name = ["bearer", "apiKey"]

    def get_security_definition(self, auto_schema):
        bearer = {"type": "http", "scheme": "bearer", "description": "An access token or an API key."}
        return [bearer, {"type": "apiKey", "in": "header", "name": "X-API-Key"}]

    def get_security_requirement(self, auto_schema):
        """One of them is enough; by default the library requires both."""
        return [{name: []} for name in self.name]


class ConsoleScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.authentication.ConsoleAuthentication"
    name = "console"

    def get_security_definition(self, auto_schema):
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class TicketScheme(OpenApiAuthenticationExtension):
    target_class = "accounts.tickets.TicketAuthentication"
    name = "ticket"

    def get_security_definition(self, auto_schema):
        return {"type": "apiKey", "in": "query", "name": PARAMETER, "description": "From POST /api/auth/ticket."}
