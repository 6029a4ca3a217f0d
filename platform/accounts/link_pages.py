"""The pages behind one-time links. A GET changes nothing, so that the preview of a mail reader uses nothing up."""

from django.contrib.auth import authenticate
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from accounts import invitations, passwords
from accounts.models import Membership, User
from core.errors import Conflict, InvalidRequest, NotFound, PlatformError


@never_cache
def join_by_link(request: HttpRequest, token: str) -> HttpResponse:
    """An invitation: one form for who has an account and who has none."""
    try:
        shown = {"invitation": invitations.find_open(token)}
        if request.method != "POST":
            return render(request, "join.html", shown)
        membership = _join(request, token)
    except NotFound:
        return render(request, "join.html", {"used": True}, status=410)
    except (InvalidRequest, Conflict) as refusal:
        return render(request, "join.html", {**shown, "refusals": _texts(refusal)}, status=refusal.status)
    return render(request, "join.html", {"membership": membership})


def _join(request: HttpRequest, token: str) -> Membership:
    """With the own account by its password, else with a new one. Failures count as those of a log-in."""
    username, password = request.POST.get("username", "")[:150], request.POST.get("password", "")[:512]
    if not User.objects.filter(username=username).exists():
        return invitations.accept_with_new_account(token, username, password)
    user = authenticate(request, username=username, password=password)
    if not isinstance(user, User):
        raise InvalidRequest(_("There is an account of this name, and the password is not its own."))
    return invitations.accept(token, user)


@never_cache
def reset_by_link(request: HttpRequest, token: str) -> HttpResponse:
    """A new password for the account that the link was made for."""
    link = passwords.find_reset(token)
    if link is None:
        return render(request, "reset.html", {"used": True}, status=410)
    if request.method != "POST":
        return render(request, "reset.html", {"username": link.user.username})
    try:
        passwords.redeem_reset(token, request.POST.get("password", "")[:512])
    except NotFound:
        return render(request, "reset.html", {"used": True}, status=410)
    except InvalidRequest as refusal:
        shown = {"username": link.user.username, "refusals": _texts(refusal)}
        return render(request, "reset.html", shown, status=refusal.status)
    return render(request, "reset.html", {"done": True, "username": link.user.username})


def _texts(refusal: PlatformError) -> list[str]:
    return [str(text) for text in refusal.details.values()] or [str(refusal.message)]
