"""The checks of a row: a field with a meaning is used or refused, so that a row is learnt exactly as written."""

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from training.trainer import conversation
from training.trainer.conversation import ANSWERS, CHATS, DETAILS, HISTORY, QUESTIONS, ROLES, SYSTEMS, WEIGHTS

LABELS = ("label", "kto_tag")
# role → what the row calls it, for messages
SHOWN_ROLES = "system, developer, user, assistant; human, gpt"
MAX_SHOWN_NAME = 60
_PAIR = gettext_lazy(
    "%(name)s: pairs of a preferred and a rejected answer cannot be taught here. "
    "Keep the preferred one as the answer and leave out the other."
)
_TOOL = gettext_lazy("%(name)s: tools cannot be taught here. Leave out this row, or the field if no tool is used.")
_MEDIUM = gettext_lazy("%(name)s: only text can be taught here. Leave out this row.")
_THOUGHT = gettext_lazy("%(name)s: write thoughts into the answer, as the model writes them, or leave them out.")
_MASK = gettext_lazy("%(name)s is not known here. Say what is not to be learnt by weight 0 of a message or a row.")
# Fields of a row that change what it teaches, which cannot be done here; empty ones do no harm.
REFUSED: dict[str, Promise] = {
    **dict.fromkeys(
        ("chosen", "rejected", "chosen_response", "rejected_response", "preferred_output", "non_preferred_output"),
        _PAIR,
    ),
    **dict.fromkeys(("tools", "functions", "function_call", "tool_calls", "tool_choice"), _TOOL),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _MEDIUM),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking"), _THOUGHT),
    **dict.fromkeys(("mask", "masked", "train"), _MASK),
}
MESSAGE_FIELDS = {"role", "content", "from", "value", *WEIGHTS}


class InvalidRow(ValueError):
    """What is wrong with a row, in the caller's language."""


def shape_of(row: dict) -> str:
    """The field that shows how to read the row: a chat's, or that of the question. Raises InvalidRow."""
    found = [name for name in (*CHATS, *QUESTIONS) if row.get(name) is not None]
    if len(found) > 1:
        raise InvalidRow(_("A row has one form, not several: %(forms)s.") % {"forms": ", ".join(found)})
    if not found and not (row.get(DETAILS[0]) is not None and row.get("output") is not None):
        if row.get("text") is not None:
            raise InvalidRow(_("Rows of plain text cannot be taught here: write each as a question and its answer."))
        raise InvalidRow(
            _("A row has messages, or conversations, or a question and its answer: prompt and completion, for example.")
        )
    return found[0] if found else DETAILS[0]


def check_row(row: dict) -> str:
    """Returns the row's shape. Raises InvalidRow."""
    for name, problem in REFUSED.items():
        if row.get(name) not in (None, "", [], {}):
            raise InvalidRow(problem % {"name": name})
    for name in LABELS:
        _check_label(row, name)
    _check_weight(row)
    shape = shape_of(row)
    systems = [name for name in SYSTEMS if row.get(name) is not None]
    for name in systems:
        _check_is_text(row[name], name)
    if len(systems) > 1:
        raise InvalidRow(_once(systems))
    if shape in CHATS:
        _check_chat(row, shape, bool(systems and row[systems[0]]))
    else:
        _check_question(row, shape)
    return shape


def used_fields(row: dict, shape: str) -> set[str]:
    """The fields that are learnt, or that change nothing with the value that they have."""
    common = {*SYSTEMS, *WEIGHTS, *LABELS, *REFUSED}
    return common | ({shape} if shape in CHATS else {shape, *DETAILS, *ANSWERS, HISTORY})


def _once(names: list[str]) -> str:
    return _("Only one of these may be given: %(names)s.") % {"names": ", ".join(names)}


def _check_label(row: dict, name: str) -> None:
    label = row.get(name)
    if label is None or label is True or (label == 1 and not isinstance(label, str)):
        return
    if label is False or label == 0:
        raise InvalidRow(
            _("%(name)s: an answer that is marked as bad cannot be taught. Leave out this row.") % {"name": name}
        )
    raise InvalidRow(
        _("%(name)s must be true, for a good answer. Call the field otherwise if it means something else.")
        % {"name": name}
    )


def _check_weight(part: dict, number: int | None = None) -> None:
    given = {name: part[name] for name in WEIGHTS if part.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or value not in (0, 1):
            raise InvalidRow(_message_prefix(number) + _("%(name)s must be 0 or 1.") % {"name": name})
    if len(set(given.values())) > 1:
        raise InvalidRow(_message_prefix(number) + _once(list(given)))


def _check_chat(row: dict, shape: str, has_system: bool) -> None:
    if row.get(HISTORY) not in (None, []):
        raise InvalidRow(_once([shape, HISTORY]))
    messages = row[shape]
    if not isinstance(messages, list) or not messages:
        raise InvalidRow(_("%(name)s must be a list of at least one question and its answer.") % {"name": shape})
    roles = [_check_message(number, message) for number, message in enumerate(messages, 1)]
    if has_system and "system" in roles:
        raise InvalidRow(_("The system message is given twice: beside the messages and among them."))
    if roles[-1] != "assistant":
        raise InvalidRow(_("The last message must be the assistant's: it is what the model is taught."))
    if "user" not in roles:
        raise InvalidRow(_("There is no message of the user."))


def _check_message(number: int, message: object) -> str:
    """Returns its role for the chat template."""
    if not isinstance(message, dict):
        raise InvalidRow(_("Message %(number)d is not an object.") % {"number": number})
    role = ROLES.get(str(conversation.message_role(message)))
    if role is None:
        raise InvalidRow(
            _("Message %(number)d: role must be one of %(roles)s.") % {"number": number, "roles": SHOWN_ROLES}
        )
    _check_message_fields(number, message)
    _check_weight(message, number)
    if role != "assistant" and any(message.get(name) for name in WEIGHTS):
        raise InvalidRow(_message_prefix(number) + _("only the assistant's messages can have a weight other than 0."))
    _check_content(number, message)
    return role


def _check_message_fields(number: int, message: dict) -> None:
    """Stored answers of an API have fields that are null or empty."""
    given = {name for name, value in message.items() if value not in (None, [])}
    if unknown := sorted(given - MESSAGE_FIELDS):
        raise InvalidRow(
            _("Message %(number)d: only role, content and weight can be taught, not %(name)s.")
            % {"number": number, "name": unknown[0][:MAX_SHOWN_NAME]}
        )
    for pair in (["role", "from"], ["content", "value"]):
        if given.issuperset(pair):
            raise InvalidRow(_message_prefix(number) + _once(pair))


def _check_content(number: int, message: dict) -> None:
    name = "value" if message.get("content") is None and "value" in message else "content"
    parts = message.get(name)
    if isinstance(parts, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts) or any(
            part.keys() - {"type", "text"} or part.get("type", "text") != "text" for part in parts
        ):
            raise InvalidRow(_message_prefix(number) + _("only parts of type text can be taught."))
        parts = conversation.message_text({name: parts})
    _check_text(parts, name, number)


def _check_question(row: dict, shape: str) -> None:
    _check_text(row[shape], shape)
    for name in DETAILS:
        if name != shape and row.get(name) is not None:
            _check_is_text(row[name], name)
    answers = [name for name in ANSWERS if row.get(name) is not None]
    if not answers:
        raise InvalidRow(_("The answer is missing: one of %(names)s.") % {"names": ", ".join(ANSWERS)})
    if len(answers) > 1:
        raise InvalidRow(_once(answers))
    _check_text(row[answers[0]], answers[0])
    _check_history(row.get(HISTORY))


def _check_history(history: object) -> None:
    if history is None:
        return
    if not isinstance(history, list):
        raise InvalidRow(_("history must be a list of pairs of a question and its answer."))
    for number, turn in enumerate(history, 1):
        if isinstance(turn, dict):
            _check_message(number, turn)
        elif not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) and t.strip() for t in turn)):
            raise InvalidRow(
                _("history: item %(number)d is no pair of a question and its answer.") % {"number": number}
            )


def _check_text(text: object, name: str, message: int | None = None) -> None:
    _check_is_text(text, name, message)
    if not str(text).strip():
        raise InvalidRow(_message_prefix(message) + _("%(name)s is empty.") % {"name": name})


def _check_is_text(text: object, name: str, message: int | None = None) -> None:
    if not isinstance(text, str):
        raise InvalidRow(_message_prefix(message) + _("%(name)s must be a text.") % {"name": name})


def _message_prefix(message: int | None) -> str:
    return _("Message %d: ") % message if message else ""
