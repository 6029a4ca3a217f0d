"""Reads the rows of an uploaded file: JSON lines, a JSON list, or a table as CSV or TSV.

Every row comes as one line of JSON, so that the other kinds can be kept as JSON lines. Nothing is read as a whole.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TextIO

import orjson
from django.db.models import TextChoices
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.errors import InvalidRequest
from core.units import MIB
from training.trainer.conversation import ANSWERS, CHATS, DETAILS, HISTORY, QUESTIONS, SYSTEMS, WEIGHTS

MAX_LINE_BYTES = MIB
PIECE = 4 * MAX_LINE_BYTES  # characters of a JSON list that are read at once
HEAD = 64 * 1024  # bytes that show a file's kind
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SPACE = " \t\r\n"
SEPARATORS = (",", "\t", ";")
TABLE_SUFFIXES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".json", *TABLE_SUFFIXES)
GZIP, GZIP_SUFFIX = b"\x1f\x8b", ".gz"
# Cells of these columns hold JSON; all others are texts.
JSON_COLUMNS = {
    *CHATS, *WEIGHTS, HISTORY, "label", "kto_tag", "tools", "functions", "images", "videos", "audios",
}  # fmt: skip
COLUMNS = {*QUESTIONS, *ANSWERS, *DETAILS, *SYSTEMS, *CHATS}
MAX_SHOWN_COLUMNS = 10
# First bytes of files that people have, and what those are
KNOWN_FILES = {
    b"PAR1": gettext_lazy("a Parquet file"),
    b"PK\x03\x04": gettext_lazy("a ZIP file or a spreadsheet"),
    b"\xff\xfe": gettext_lazy("a file in UTF-16"),
    b"\xfe\xff": gettext_lazy("a file in UTF-16"),
}
csv.field_size_limit(MAX_LINE_BYTES)


class FileKind(TextChoices):
    LINES = "jsonl", gettext_lazy("a JSONL file")
    JSON_LIST = "json", gettext_lazy("a JSON list")
    CSV = "csv", gettext_lazy("a CSV table")
    TSV = "tsv", gettext_lazy("a TSV table")


@dataclass(frozen=True)
class RawRow:
    """`number` is the row's first line, in a JSON list its place, from 1. `problem` says why it is no row."""

    number: int
    content: bytes = b""
    problem: str = ""


def without_suffix(file_name: str) -> str:
    file_name = file_name.removesuffix(GZIP_SUFFIX)
    return next((file_name.removesuffix(end) for end in SUFFIXES if file_name.endswith(end)), file_name)


def unpack(file: BinaryIO) -> Iterator[bytes]:
    """The content of a file packed with gzip, piece by piece. Raises InvalidRequest if it is damaged."""
    try:
        with gzip.open(file) as unpacked:
            while piece := unpacked.read(HEAD):
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InvalidRequest(_("The file is packed with gzip, and damaged."), param="file") from None


def detect_kind(file: BinaryIO, name: str) -> FileKind:
    """By the first bytes; a name like that of a table only decides what is said. Raises InvalidRequest."""
    head = file.read(HEAD)
    file.seek(0)
    for magic, title in KNOWN_FILES.items():
        if head.startswith(magic):
            problem = _("This is %(kind)s, which is not taken. Send JSON lines, a JSON list or CSV in UTF-8.")
            raise InvalidRequest(problem % {"kind": title}, param="file")
    text = head.removeprefix(BYTE_ORDER_MARK).decode(errors="replace").lstrip()
    if text.startswith("["):
        return FileKind.JSON_LIST
    if text.startswith("{"):
        return FileKind.LINES
    return _table_kind(text, name) or FileKind.LINES


def _table_kind(text: str, name: str) -> FileKind | None:
    """None if it is no table. Raises InvalidRequest for one without a column that is known."""
    header = (text.splitlines() or [""])[0]
    separator, columns = _split_header(header)
    if COLUMNS.intersection(columns) and len(columns) > 1:
        return FileKind.TSV if separator == "\t" else FileKind.CSV
    if header and name.lower().removesuffix(GZIP_SUFFIX).endswith(TABLE_SUFFIXES):
        shown = ", ".join(column[:60] for column in columns[:MAX_SHOWN_COLUMNS])
        problem = _(
            "This is a table whose columns are not known: %(columns)s. "
            "Call them prompt and completion, or question and answer, or instruction, input and output."
        )
        raise InvalidRequest(problem % {"columns": shown}, param="file")
    return None


def _split_header(header: str) -> tuple[str, list[str]]:
    """The separator that makes most columns, and the columns."""
    found = {separator: next(csv.reader([header], delimiter=separator), []) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(found[each]))
    return separator, [_column(cell) for cell in found[separator]]


def _column(cell: str) -> str:
    """Spreadsheets write capitals and spaces."""
    name = cell.strip()
    return name.lower() if name.lower() in COLUMNS | JSON_COLUMNS else name


def read_rows(file: BinaryIO, kind: FileKind) -> Iterator[RawRow]:
    if kind == FileKind.LINES:
        yield from read_lines(file)
        return
    # A byte that is not UTF-8 becomes half of a surrogate, which is refused in the row that has it.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    yield from _read_list(text) if kind == FileKind.JSON_LIST else _read_table(text)


def read_lines(file: BinaryIO) -> Iterator[RawRow]:
    """Lines that are not blank. Only the beginning of an overlong line is kept in memory."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = raw
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        if number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        if raw.strip():
            yield RawRow(number, raw)


class ListReader:
    """Decodes the items of a JSON list one after the other; `number` is that of the last one."""

    def __init__(self, text: TextIO):
        self._text, self._buffer, self._position = text, "", 0
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)
        self._ended = False
        self.number = 0

    def next_character(self) -> str:
        """The next one that is not a space; spaces are skipped. Empty at the end."""
        while True:
            self._fill()
            while self._position < len(self._buffer):
                self._position += 1
                if self._buffer[self._position - 1] not in SPACE:
                    return self._buffer[self._position - 1]
            if self._ended:
                return ""

    def back(self) -> None:
        self._position -= 1

    def item(self) -> object:
        """Raises ValueError, RecursionError."""
        self._fill()
        self.number += 1
        found, self._position = self._decoder.raw_decode(self._buffer, self._position)
        return found

    @property
    def is_cut(self) -> bool:
        """Whether an item may be longer than what was read of it."""
        return not self._ended and len(self._buffer) - self._position >= MAX_LINE_BYTES

    def _fill(self) -> None:
        """At least one item of the greatest size is in the buffer, if there is so much."""
        while not self._ended and len(self._buffer) - self._position <= MAX_LINE_BYTES:
            piece = self._text.read(PIECE)
            self._ended = not piece
            self._buffer, self._position = self._buffer[self._position :] + piece, 0


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_list(text: TextIO) -> Iterator[RawRow]:
    """Ends at the first place that is not JSON: the rows after it cannot be separated."""
    reader = ListReader(text)
    reader.next_character()  # the bracket
    is_whole = reader.next_character() == "]"
    if not is_whole:
        reader.back()
        is_whole = yield from _read_items(reader)
    if is_whole and reader.next_character():
        yield RawRow(reader.number + 1, problem=_("The list has ended, and there is more behind it."))


def _read_items(reader: ListReader) -> Generator[RawRow, None, bool]:
    """Returns whether the list's end was reached."""
    while True:
        try:
            item = reader.item()
        except (ValueError, RecursionError):
            yield RawRow(reader.number, problem=_item_problem(reader))
            return False
        yield _as_line(reader.number, item)
        match reader.next_character():
            case "]":
                return True
            case ",":
                reader.next_character()
                reader.back()
            case _end:
                problem = _("A comma or the end of the list is missing behind it. What follows was not read.")
                yield RawRow(reader.number, problem=problem)
                return False


def _item_problem(reader: ListReader) -> str:
    if reader.is_cut:
        problem = _("It is not JSON, or longer than %(most)d bytes. What follows was not read.")
        return problem % {"most": MAX_LINE_BYTES}
    return _("It is not JSON. What follows was not read.")


def _as_line(number: int, item: object) -> RawRow:
    try:
        return RawRow(number, orjson.dumps(item))
    except TypeError:
        return RawRow(number, problem=_("It holds a character that is not UTF-8, or an integer beyond 64 bits."))


class TableLines:
    """The lines of a table for the csv module; raises csv.Error where one row takes more than may be in memory."""

    def __init__(self, text: TextIO):
        self._text, self._size = text, 0
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_LINE_BYTES + 1):
            self.number += 1
            self._size += len(line)
            if self._size > MAX_LINE_BYTES:
                raise csv.Error(f"a row is longer than {MAX_LINE_BYTES} characters")
            yield line

    def begin_row(self) -> None:
        self._size = 0


def _read_table(text: TextIO) -> Iterator[RawRow]:
    """Empty cells are left out. Ends at the first place that is no CSV, since quotes span lines."""
    lines = TableLines(text)
    first = 1
    try:
        header = next((line for line in lines if line.strip()), "")
        separator, columns = _split_header(header.rstrip("\r\n"))
        lines.begin_row()
        first = lines.number + 1
        for cells in csv.reader(lines, delimiter=separator, strict=True):
            lines.begin_row()
            if cells:
                yield _table_row(first, columns, cells)
            first = lines.number + 1
    except csv.Error as error:
        yield RawRow(first, problem=_("It is not CSV: %(why)s. What follows was not read.") % {"why": error})


def _table_row(line: int, columns: list[str], cells: list[str]) -> RawRow:
    if len(cells) > len(columns):
        problem = _("It has %(found)d cells, and the first line has %(wanted)d.")
        return RawRow(line, problem=problem % {"found": len(cells), "wanted": len(columns)})
    pairs = zip(columns, cells, strict=False)
    return _as_line(line, {column: _cell_value(column, cell) for column, cell in pairs if cell})


def _cell_value(column: str, cell: str) -> object:
    if column not in JSON_COLUMNS:
        return cell
    try:
        return orjson.loads(cell.lower() if cell.lower() in ("true", "false") else cell)
    except orjson.JSONDecodeError:
        return cell  # the check of the row refuses it
