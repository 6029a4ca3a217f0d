"""Login over the API, tenants, members, keys, the audit log, the configuration, and the console's one-time link."""

from dataclasses import asdict

from django.contrib.auth import authenticate, login
from django.db import transaction
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics, mixins, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit, configuration, credential_identity, references, services, tickets, tokens
from accounts.actor import actor_of
from accounts.models import ApiKey, AuditRecord, Membership, Scope, Tenant, User
from accounts.policy import Permission
from accounts.serializers import (
    AuditSerializer,
    ConfigurationChangeSerializer,
    ConfigurationHistoryQuerySerializer,
    CredentialsSerializer,
    KeySerializer,
    LogInSerializer,
    MemberSerializer,
    NewKeySerializer,
    RefreshSerializer,
    RevokeSerializer,
    RoleSerializer,
    TenantSerializer,
    TicketSerializer,
)
from core.errors import Conflict, Forbidden, InvalidRequest, Unauthenticated
from core.pagination import PagePagination
from core.parsers import checked, refuse_body, validated, validated_query
from core.tenant_views import TenantScopedMixin

NO_STORE = {"Cache-Control": "no-store"}


class PublicView(APIView):
    """Needs no credential; a wrong one in the header is ignored."""

    authentication_classes = []
    permissions = {"POST": Permission.PUBLIC, "GET": Permission.PUBLIC}


class TokenView(PublicView):
    @extend_schema(request=CredentialsSerializer, responses=LogInSerializer, auth=[])
    def post(self, request):
        credentials = validated(CredentialsSerializer, request.data)
        user = authenticate(request._request, **credentials)
        if user is None:
            raise Unauthenticated(_("The user name or the password is wrong."))
        return Response(tokens.open_session(user), headers=NO_STORE)


class RefreshView(PublicView):
    @extend_schema(request=RefreshSerializer, responses=LogInSerializer, auth=[])
    def post(self, request):
        return Response(
            tokens.refresh_session(validated(RefreshSerializer, request.data)["refresh_token"]), headers=NO_STORE
        )


class RevokeView(PublicView):
    @extend_schema(request=RevokeSerializer, responses=OpenApiTypes.OBJECT, auth=[])
    def post(self, request):
        tokens.revoke_session(validated(RevokeSerializer, request.data)["token"])
        return Response({"message": _("The log-in has ended.")})


class TicketView(APIView):
    permissions = {"POST": Permission.READ}
    for_all_tenants = True

    @extend_schema(request=None, responses=TicketSerializer)
    def post(self, request):
        refuse_body(request)
        ticket = tickets.issue_ticket(credential_identity.identity_of_request(request))
        return Response({"ticket": ticket, "expires_in": tickets.TICKET_LIFETIME}, headers=NO_STORE)


class TenantViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Operators create and close tenants; keys and members of a closed tenant have no access."""

    queryset = Tenant.objects.all()
    serializer_class = TenantSerializer
    filterset_fields = ["slug", "is_active"]
    permissions = {
        "list": Permission.OPERATE,
        "create": Permission.OPERATE,
        "retrieve": Permission.OPERATE,
        "partial_update": Permission.OPERATE,
    }

    @transaction.atomic
    def create(self, request):
        tenant = checked(self.get_serializer(data=request.data)).save()
        audit.record(actor_of(request), "tenant.create", tenant, tenant_id=tenant.pk, request=request, slug=tenant.slug)
        return Response(self.get_serializer(tenant).data, status=201)

    @transaction.atomic
    def partial_update(self, request, pk=None):
        serializer = checked(self.get_serializer(self.get_object(), data=request.data, partial=True))
        tenant = serializer.save()
        changed = {name: str(value) for name, value in serializer.validated_data.items()}
        audit.record(actor_of(request), "tenant.change", tenant, tenant_id=tenant.pk, request=request, **changed)
        return Response(serializer.data)


class MemberViewSet(TenantScopedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    queryset = Membership.objects.select_related("user")
    serializer_class = MemberSerializer
    filterset_fields = ["role"]
    permissions = dict.fromkeys(("list", "retrieve", "create", "partial_update", "destroy"), Permission.MANAGE_TENANT)

    @extend_schema(request=MemberSerializer, responses={201: MemberSerializer})
    @transaction.atomic
    def create(self, request):
        fields = validated(MemberSerializer, request.data)
        actor = request.auth
        role = fields.get("role", "member")
        services.require_rank(actor.role, role, actor.is_operator)
        membership = services.add_member(actor.tenant, self._account(fields), role)
        audit.record(actor, "member.add", membership, request=request, username=membership.user.username, role=role)
        return Response(MemberSerializer(membership).data, status=201)

    @extend_schema(request=RoleSerializer, responses=MemberSerializer)
    @transaction.atomic
    def partial_update(self, request, pk=None):
        membership = self._membership_of_another()
        role = validated(RoleSerializer, request.data, shown=MemberSerializer)["role"]
        for affected_role in (membership.role, role):
            services.require_rank(request.auth.role, affected_role, request.auth.is_operator)
        old = membership.role
        services.change_role(membership, role)
        audit.record(request.auth, "member.role", membership, request=request, old=old, new=role)
        return Response(MemberSerializer(membership).data)

    @transaction.atomic
    def destroy(self, request, pk=None):
        refuse_body(request)
        membership = self._membership_of_another()
        services.require_rank(request.auth.role, membership.role, request.auth.is_operator)
        audit.record(request.auth, "member.remove", membership, request=request, username=membership.user.username)
        services.remove_member(membership)
        return Response(status=204)

    def _membership_of_another(self) -> Membership:
        """Nobody shuts himself out by mistake. An operator needs no membership. Raises NotFound, Conflict."""
        membership, actor = self.get_object(), actor_of(self.request)
        if membership.user == actor.user and not actor.is_operator:
            raise Conflict(_("You cannot change or end your own membership. Another admin or owner can."))
        return membership

    def _account(self, fields: dict) -> User:
        """An existing account by name. Only operators can see whether a name is free and create accounts."""
        username, actor = fields["user"]["username"], actor_of(self.request)
        if actor.is_operator and fields.get("password"):
            if User.objects.filter(username=username).exists():
                raise InvalidRequest(details={"username": _("This account exists already; leave the password out.")})
            return User.objects.create_user(
                username, fields["user"].get("email", ""), fields["password"], default_tenant=actor.tenant
            )
        user = User.objects.filter(username=username, is_active=True).first()
        if user is None:
            raise InvalidRequest(details={"username": _("There is no such account; an operator can make one.")})
        return user


class KeyViewSet(TenantScopedMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """A key's secret is only in the reply that created the key."""

    queryset = ApiKey.objects.select_related("created_by")
    serializer_class = KeySerializer
    permissions = dict.fromkeys(("list", "retrieve", "create", "destroy", "revoke"), Permission.MANAGE_TENANT)

    @extend_schema(request=KeySerializer, responses={201: NewKeySerializer})
    @transaction.atomic
    def create(self, request):
        fields = validated(KeySerializer, request.data)
        actor = request.auth
        services.require_rank(actor.role, fields["role"], actor.is_operator)
        if Scope.METRICS in fields["scopes"] and not actor.is_operator:
            raise Forbidden(_("Only an operator can make a key that reads the platform's metrics."))
        fields["allowed_models"] = [self._model_id(ref) for ref in fields.get("allowed_models", [])]
        key, secret = services.issue_key(actor.tenant, maker=actor.user, **fields)
        audit.record(actor, "key.create", key, request=request, name=key.name, scopes=key.scopes, role=key.role)
        return Response({**KeySerializer(key).data, "secret": secret}, status=201, headers=NO_STORE)

    def destroy(self, request, pk=None):
        self._revoke(request)
        return Response(status=204)

    @extend_schema(request=None, responses=KeySerializer)
    @action(detail=True, methods=["post"])
    def revoke(self, request, pk=None):
        return Response(KeySerializer(self._revoke(request)).data)

    @transaction.atomic
    def _revoke(self, request) -> ApiKey:
        refuse_body(request)
        key = self.get_object()
        services.revoke_key(key)
        audit.record(request.auth, "key.revoke", key, request=request, name=key.name)
        return key

    def _model_id(self, ref: str) -> str:
        model_id = references.resolve_model_id(actor_of(self.request), ref)
        if model_id is None:
            raise InvalidRequest(details={"allowed_models": _("There is no model %(ref)s.") % {"ref": ref}})
        return model_id


class AuditViewSet(TenantScopedMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    queryset = AuditRecord.objects.all()
    serializer_class = AuditSerializer
    filterset_fields = ["action", "object_type", "object_id"]
    permissions = {"list": Permission.MANAGE_TENANT}


class ConfigurationView(APIView):
    permissions = {"GET": Permission.OPERATE, "PUT": Permission.OPERATE}

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request):
        return Response(asdict(configuration.current()))

    @extend_schema(request=OpenApiTypes.OBJECT, responses=OpenApiTypes.OBJECT)
    def put(self, request):
        return Response(asdict(configuration.change(request.auth, request.data, request)))


class ConfigurationHistoryView(generics.ListAPIView):
    """All changes of the configuration, newest first."""

    serializer_class = ConfigurationChangeSerializer
    permissions = {"GET": Permission.OPERATE}

    @extend_schema(parameters=[ConfigurationHistoryQuerySerializer])
    def get(self, request):
        return self.list(request)

    def get_queryset(self):
        query = validated_query(ConfigurationHistoryQuerySerializer, self.request, also=PagePagination.parameters)
        return configuration.history(**query)


@never_cache
def login_by_link(request, token: str):
    """The console's one-time link. A GET changes nothing, so that the preview of a mail reader does not use it up."""
    if request.method != "POST":
        return render(request, "enter.html")
    user = services.redeem_link(token)
    if user is None:
        return render(request, "enter.html", {"used": True}, status=410)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("/console/")
