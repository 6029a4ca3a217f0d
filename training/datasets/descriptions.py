"""What an uploaded file is, in one sentence of the caller's language."""

from django.utils.translation import gettext as _

from training.datasets.row_files import FileKind
from training.models import Dataset
from training.trainer.conversation import CHATS


def describe(kind: FileKind, shape: str, answer: str) -> str:
    """`shape` and `answer` are those of its rows; empty if none was understood."""
    if not shape:
        return _("This was read as %(kind)s.") % {"kind": kind.label}
    return _("This is %(kind)s of %(rows)s.") % {"kind": kind.label, "rows": _rows_title(shape, answer)}


def describe_dataset(dataset: Dataset) -> str:
    """Older ones have no origin: they were JSON lines whose field is called like their format."""
    origin = {"kind": FileKind.LINES, "shape": dataset.format, "answer": ""} | dataset.origin
    return describe(FileKind(origin["kind"]), origin["shape"], origin["answer"])


def describe_reading(dataset: Dataset) -> str:
    """What file it was, which of its fields have no meaning here, and how many rows have the weight 0."""
    sentences = [describe_dataset(dataset)]
    if ignored := dataset.origin.get("ignored_fields"):
        names = ", ".join(f"{name} ({rows})" for name, rows in ignored.items())
        sentences.append(_("Fields without a meaning: %(names)s.") % {"names": names})
    if untaught := dataset.origin.get("untaught_rows"):
        sentences.append(_("Rows of weight 0, which are not learnt: %(count)d.") % {"count": untaught})
    return " ".join(sentences)


def _rows_title(shape: str, answer: str) -> str:
    if shape == "conversations":
        return _("ShareGPT conversations")
    if shape in CHATS:
        return _("chat messages")
    if shape == "instruction":
        return _("Dolly rows (instruction, response)") if answer == "response" else _("Alpaca rows")
    return _("rows of %(question)s and %(answer)s") % {"question": shape, "answer": answer or "completion"}
