"""Invitations over REST: made, listed and withdrawn by admins, accepted by whoever has the token."""

from django.db import transaction
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit, invitations, services
from accounts.actor import Actor, actor_of
from accounts.links import invitation_reply
from accounts.models import Invitation, InvitationQuerySet, Membership, Role
from accounts.policy import Permission
from accounts.serializers import (
    AcceptanceSerializer,
    InvitationSerializer,
    JoinedSerializer,
    NewInvitationSerializer,
    OwnTenantSerializer,
)
from accounts.views import NO_STORE
from core.errors import Forbidden, InvalidRequest
from core.parsers import refuse_body, validated
from core.tenant_views import TenantScopedMixin


class InvitationViewSet(TenantScopedMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    """The open invitations. Link and token are only in the reply that created one."""

    queryset = Invitation.objects.select_related("created_by")
    serializer_class = InvitationSerializer
    permissions = dict.fromkeys(("list", "create", "destroy"), Permission.MANAGE_TENANT)

    def get_queryset(self) -> InvitationQuerySet:
        queryset = super().get_queryset()
        assert isinstance(queryset, InvitationQuerySet)
        return queryset.open()

    @extend_schema(request=InvitationSerializer, responses={201: NewInvitationSerializer})
    @transaction.atomic
    def create(self, request: Request) -> Response:
        fields, actor = validated(InvitationSerializer, request.data), actor_of(request)
        role, username = fields.get("role", Role.MEMBER), fields.get("username", "")
        invitation, token = invitations.invite(actor, role=role, username=username)
        audit.record(actor, "invitation.create", invitation, request=request, username=username, role=role)
        return Response(invitation_reply(invitation, token), status=201, headers=NO_STORE)

    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    @transaction.atomic
    def destroy(self, request: Request, pk: str | None = None) -> Response:
        refuse_body(request)
        invitation, actor = self.get_object(), actor_of(request)
        services.require_rank(actor.role, invitation.role, actor.is_operator)
        audit.record(actor, "invitation.withdraw", invitation, request=request, username=invitation.username)
        invitation.delete()
        return Response({"message": _("The invitation is withdrawn.")})


class AcceptanceView(APIView):
    """Without a credential it makes an account; a person who is logged in joins with his own."""

    permissions = {"POST": Permission.PUBLIC}

    @extend_schema(request=AcceptanceSerializer, responses={201: JoinedSerializer}, auth=[])
    def post(self, request: Request) -> Response:
        fields = validated(AcceptanceSerializer, request.data)
        membership = self._accept(actor_of(request) if request.auth else None, **fields)
        reply = {"username": membership.user.username, "tenant": OwnTenantSerializer(membership).data}
        return Response(reply, status=201)

    def _accept(
        self, actor: Actor | None, token: str, username: str | None = None, password: str | None = None
    ) -> Membership:
        given = {"username": username, "password": password}
        if actor and actor.key:
            raise Forbidden(_("A key accepts no invitation. Log in, or send no credential to get an account."))
        if actor and actor.user:
            surplus = [name for name, value in given.items() if value is not None]
            if surplus:
                raise InvalidRequest(details=dict.fromkeys(surplus, _("You are logged in: send the token alone.")))
            return invitations.accept(token, actor.user)
        if username is None or password is None:
            missing = [name for name, value in given.items() if value is None]
            text = _("Choose one for the new account. Who has an account logs in and sends the token alone.")
            raise InvalidRequest(details=dict.fromkeys(missing, text))
        return invitations.accept_with_new_account(token, username, password)
