"""What every person does for himself: profile, password, keys. No key can."""

from django.contrib.auth import authenticate, update_session_auth_hash
from django.db import transaction
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit, credential_identity, passwords, references, services
from accounts.actor import actor_of
from accounts.models import ApiKey
from accounts.policy import Permission
from accounts.serializers import NewKeySerializer, OwnAccountSerializer, OwnKeySerializer, PasswordChangeSerializer
from accounts.views import NO_STORE
from core.errors import InvalidRequest
from core.parsers import checked, refuse_body, validated
from core.tenancy import TenantQuerySet
from core.tenant_views import TenantScopedMixin


class OwnAccountView(APIView):
    permissions = {"GET": Permission.OWN_ACCOUNT, "PATCH": Permission.OWN_ACCOUNT}

    @extend_schema(responses=OwnAccountSerializer)
    def get(self, request: Request) -> Response:
        return Response(OwnAccountSerializer(actor_of(request).user, context={"request": request}).data)

    @extend_schema(request=OwnAccountSerializer, responses=OwnAccountSerializer)
    def patch(self, request: Request) -> Response:
        user = actor_of(request).user
        serializer = checked(OwnAccountSerializer(user, request.data, partial=True, context={"request": request}))
        serializer.save()
        return Response(serializer.data)


class OwnPasswordView(APIView):
    """A wrong old password counts as a failed log-in, so that a stolen token is no way to guess it."""

    permissions = {"POST": Permission.OWN_ACCOUNT}
    for_all_tenants = True

    @extend_schema(request=PasswordChangeSerializer, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request) -> Response:
        fields = validated(PasswordChangeSerializer, request.data)
        user = authenticate(request._request, username=request.user.username, password=fields["old"])
        if user is None or user != request.user:
            raise InvalidRequest(details={"old": _("This is not your password.")})
        passwords.require_good(fields["new"], user, field="new")
        own = credential_identity.identity_of_request(request)
        with transaction.atomic():
            passwords.change(user, fields["new"], kept_login=own.login_id)
            audit.record(actor_of(request), "account.password", user, request=request)
        if own.session_key:
            update_session_auth_hash(request._request, user)
        return Response({"message": _("Your password is changed, and your other log-ins have ended.")})


class OwnKeyViewSet(TenantScopedMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    """The keys that a person made himself, in the tenant that he acts for. A key's secret is shown once."""

    queryset = ApiKey.objects.select_related("created_by")
    serializer_class = OwnKeySerializer
    permissions = dict.fromkeys(("list", "create", "destroy"), Permission.OWN_ACCOUNT)

    def get_queryset(self) -> TenantQuerySet[ApiKey]:
        keys = super().get_queryset()
        return keys if getattr(self, "swagger_fake_view", False) else keys.filter(created_by=self.request.user)

    @extend_schema(request=OwnKeySerializer, responses={201: NewKeySerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        fields, actor = validated(OwnKeySerializer, request.data), actor_of(request)
        fields["allowed_models"] = references.resolve_allowed_models(actor, fields.get("allowed_models", []))
        key, secret = services.issue_own_key(actor, **fields)
        audit.record(actor, "key.create", key, request=request, name=key.name, scopes=key.scopes, role=key.role)
        return Response({**OwnKeySerializer(key).data, "secret": secret}, status=201, headers=NO_STORE)

    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    @transaction.atomic
    def destroy(self, request: Request, pk: str | None = None) -> Response:
        refuse_body(request)
        key = self.get_object()
        services.revoke_key(key)
        audit.record(actor_of(request), "key.revoke", key, request=request, name=key.name)
        return Response({"message": _("The key has ended.")})
