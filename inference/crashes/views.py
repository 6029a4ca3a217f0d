"""REST of engines that ended unasked."""

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.policy import Permission
from inference.crashes import dossiers
from inference.crashes.serializers import CrashesSerializer
from models_app import services as catalogue


class CrashesView(APIView):
    permissions = {"GET": Permission.READ}

    @extend_schema(responses=CrashesSerializer)
    def get(self, request, ref):
        found = dossiers.crash_overview(catalogue.find_own(request.auth, ref), request.auth)
        return Response(CrashesSerializer(found).data)
