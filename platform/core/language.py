"""The language of a response where no Django middleware chooses it."""

from django.utils import translation
from django.utils.translation.trans_real import parse_accept_lang_header


def language_of(accept_language: bytes | None) -> str:
    """The first language of the header that the platform supports, else English."""
    if not accept_language:
        return "en"
    for code, _quality in parse_accept_lang_header(accept_language.decode("latin-1").lower()):
        try:
            return translation.get_supported_language_variant(code)
        except LookupError:
            continue
    return "en"
