"""manage.py operator: makes operators, and gives a new password to one who is locked out."""

import sys
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import operators
from accounts.models import User


class Command(BaseCommand):
    help = (
        "Makes an operator (operator add NAME), also of an account that is there, or gives one a new password "
        "(operator password NAME)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        for name, text in (("add", "make an operator"), ("password", "give an operator a new password")):
            command = commands.add_parser(name, help=text)
            command.add_argument("name", help="the account's user name")
            command.add_argument("--password-stdin", action="store_true", help="read the password from standard input")

    def handle(self, *, command: str, name: str, password_stdin: bool, **options: Any) -> None:
        account = User.objects.filter(username=name).first()
        if command == "add":
            self._add(name, account, password_stdin)
        else:
            self._change_password(name, account, password_stdin)

    def _add(self, name: str, account: User | None, password_stdin: bool) -> None:
        if account and account.is_operator:
            raise CommandError(f"{name} is an operator already. For a new password: manage.py operator password {name}")
        if account:
            operators.promote(account)
            self.stdout.write(f"{name} is an operator now and keeps the password of the account.")
            self.stdout.write(f"For a new one: python3 manage.py operator password {name}")
            return
        self._require_name(name)
        password = self._new_password(User(username=name), password_stdin)
        operators.create(name, password)
        self._show(name, password, password_stdin, f"{name} is an operator now.")

    def _change_password(self, name: str, account: User | None, password_stdin: bool) -> None:
        if account is None or not account.is_operator:
            raise CommandError(f"There is no operator {name}. To make one: manage.py operator add {name}")
        password = self._new_password(account, password_stdin)
        operators.set_password(account, password)
        self._show(name, password, password_stdin, f"{name} has a new password; log-ins with the old one have ended.")

    def _new_password(self, account: User, password_stdin: bool) -> str:
        """Refuses before anything is changed. The output of a script or a service is kept, so it gets no password."""
        if not password_stdin:
            if not self.stdout.isatty():
                raise CommandError(
                    "A new password is shown in a terminal only, and this is none. Give one: --password-stdin"
                )
            return operators.new_password()
        password = sys.stdin.readline().rstrip("\r\n")
        try:
            validate_password(password, account)
        except ValidationError as refusal:
            raise CommandError(" ".join(refusal.messages)) from None
        return password

    def _require_name(self, name: str) -> None:
        try:
            User._meta.get_field("username").clean(name, None)
        except ValidationError as refusal:
            raise CommandError(" ".join(refusal.messages)) from None

    def _show(self, name: str, password: str, password_stdin: bool, text: str) -> None:
        self.stdout.write(text)
        if not password_stdin:
            self.stdout.write(f"\n  Login  {name} / {password}\n\nThe password is shown this once.")
