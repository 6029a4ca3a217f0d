"""Headers of weight files, checked against the file size: weights are not read, and no value is trusted."""

import json
import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO

from core.units import MIB

# The safetensors library accepts 100 MB, but hostile JSON of that size takes gigabytes when parsed. Real headers: < 12.
SAFETENSORS_HEADER_LIMIT = 16 * MIB
# A vocabulary of 260,000 words with its merges takes about 15 MiB.
GGUF_HEADER_LIMIT = 32 * MIB
MAX_KEPT_TEXT = 4096
MAX_KEPT_ARRAY = 1024
MAX_DIMENSION = 2**40
MAX_RANK = 16
IMPOSSIBLE_SHAPE = "a tensor has an impossible shape or place"

# Bits of one number, and the name that engines use.
SAFETENSORS_TYPES = {
    "F64": (64, "float64"), "F32": (32, "float32"), "F16": (16, "float16"), "BF16": (16, "bfloat16"),
    "I64": (64, "int64"), "I32": (32, "int32"), "I16": (16, "int16"), "I8": (8, "int8"),
    "U64": (64, "uint64"), "U32": (32, "uint32"), "U16": (16, "uint16"), "U8": (8, "uint8"), "BOOL": (8, "bool"),
    "F8_E4M3": (8, "float8_e4m3"), "F8_E5M2": (8, "float8_e5m2"), "F8_E8M0": (8, "float8_e8m0"),
    "F6_E2M3": (6, "float6"), "F6_E3M2": (6, "float6"), "F4": (4, "float4"),
}  # fmt: skip
# Number of a type: its name, numbers in a block, bytes of a block (ggml.h).
GGUF_TYPES = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("int8", 1, 1), 25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8), 28: ("float64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bfloat16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip
GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
GGUF_TEXT, GGUF_ARRAY = 8, 9
GGUF_MIN_PAIR_BYTES, GGUF_MIN_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


class DamagedWeights(ValueError):
    """The header contradicts itself or the file size."""


@dataclass(frozen=True)
class Weights:
    """Bytes of all tensors, the type that most of them have, and a GGUF's metadata (long values as None)."""

    bytes: int
    dtype: str
    metadata: dict = field(default_factory=dict)


def is_gguf(start: bytes) -> bool:
    return start.startswith(b"GGUF")


def looks_like_safetensors(start: bytes) -> bool:
    """Eight bytes of length, then JSON."""
    return start[8:9] == b"{"


# --- safetensors


def read_safetensors(path: Path) -> Weights:
    """Raises DamagedWeights unless the tensors fill the file exactly, as the safetensors library requires; OSError."""
    return _safetensors_weights(*_safetensors_header(path))


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Tensor name → shape, checked against the file in the same way."""
    header, data_bytes = _safetensors_header(path)
    _safetensors_weights(header, data_bytes)
    return {name: entry["shape"] for name, entry in header.items()}


def _safetensors_header(path: Path) -> tuple[dict, int]:
    """The header, and the number of data bytes after it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if not 2 <= length <= min(size - 8, SAFETENSORS_HEADER_LIMIT):
            raise DamagedWeights("the length of the header is impossible")
        return _parse_header(file.read(length)), size - 8 - length


def _parse_header(raw: bytes) -> dict:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise DamagedWeights("the header is not JSON") from None
    if not isinstance(header, dict):
        raise DamagedWeights("the header is not an object")
    header.pop("__metadata__", None)
    if not header:
        raise DamagedWeights("there are no tensors")
    return header


def _safetensors_weights(header: dict, data_bytes: int) -> Weights:
    tensors = sorted(_safetensors_tensor(entry) for entry in header.values())
    position, types = 0, Counter[str]()
    for begin, end, dtype in tensors:
        if begin != position:
            raise DamagedWeights("tensors overlap or leave holes")
        position = end
        types[dtype] += end - begin
    if position != data_bytes:
        raise DamagedWeights("the tensors do not fill the file")
    return Weights(data_bytes, types.most_common(1)[0][0])


def _safetensors_tensor(entry) -> tuple[int, int, str]:
    """Begin and end in the data, and the type."""
    if not isinstance(entry, dict):
        raise DamagedWeights("a tensor is not an object")
    kind = entry.get("dtype")
    if not (isinstance(kind, str) and kind in SAFETENSORS_TYPES):
        raise DamagedWeights("a tensor has an unknown type")
    shape, offsets = _sizes(entry.get("shape"), MAX_RANK), _sizes(entry.get("data_offsets"), 2)
    if len(offsets) != 2:
        raise DamagedWeights(IMPOSSIBLE_SHAPE)
    bits, name = SAFETENSORS_TYPES[kind]
    begin, end = offsets
    if (end - begin) * 8 != prod(shape) * bits:
        raise DamagedWeights("a tensor's place does not fit its shape")
    return begin, end, name


def _sizes(values, max_count: int) -> list[int]:
    """The values as at most `max_count` sizes. Raises DamagedWeights."""
    if not isinstance(values, list) or len(values) > max_count:
        raise DamagedWeights(IMPOSSIBLE_SHAPE)
    if not all(type(value) is int and 0 <= value <= MAX_DIMENSION for value in values):
        raise DamagedWeights(IMPOSSIBLE_SHAPE)
    return values


# --- GGUF


class HeaderReader:
    """Reads forward, never past the end of the file or the header limit. Raises DamagedWeights."""

    def __init__(self, file: BinaryIO, limit: int):
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.left = min(self.size, limit)
        self.position = 0

    def take(self, count: int) -> bytes:
        self._advance(count)
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedWeights("the file ends within its header")
        return data

    def skip(self, count: int) -> None:
        self._advance(count)
        self._file.seek(count, os.SEEK_CUR)

    def _advance(self, count: int) -> None:
        if count > self.left:
            raise DamagedWeights("the header ends after the file, or is far too long")
        self.left -= count
        self.position += count

    def number(self, code: str):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def text(self, keep: bool = True) -> str | None:
        length = self.number("Q")
        if keep and length <= MAX_KEPT_TEXT:
            return self.take(length).decode("utf-8", "replace")
        self.skip(length)
        return None

    def count(self, smallest: int) -> int:
        """The number of items that follow, of at least `smallest` bytes each."""
        number = self.number("Q")
        if number * smallest > self.left:
            raise DamagedWeights("a count is higher than the file could hold")
        return number


def read_gguf(path: Path) -> Weights:
    """Raises DamagedWeights unless every tensor lies within the file; OSError."""
    with path.open("rb", buffering=MIB) as file:
        reader = HeaderReader(file, GGUF_HEADER_LIMIT)
        if reader.take(4) != b"GGUF" or reader.number("I") not in (2, 3):
            raise DamagedWeights("not a GGUF file of version 2 or 3")
        tensor_count, pair_count = reader.count(GGUF_MIN_TENSOR_BYTES), reader.count(GGUF_MIN_PAIR_BYTES)
        metadata = _gguf_metadata(reader, pair_count)
        tensors = [_gguf_tensor(reader) for _number in range(tensor_count)]
    return _gguf_weights(tensors, metadata, reader)


def _gguf_metadata(reader: HeaderReader, pairs: int) -> dict:
    metadata = {}
    for _number in range(pairs):
        key = reader.text()
        if key is None or key in metadata:
            raise DamagedWeights("a key is too long or occurs twice")
        metadata[key] = _gguf_value(reader, reader.number("I"))
    return metadata


def _gguf_value(reader: HeaderReader, kind: int):
    if kind in GGUF_SCALARS:
        return reader.number(GGUF_SCALARS[kind])
    if kind == GGUF_TEXT:
        return reader.text()
    if kind == GGUF_ARRAY:
        return _gguf_array(reader)
    raise DamagedWeights("a value has an unknown type")


def _gguf_array(reader: HeaderReader) -> list | int:
    """A short array of numbers as a list; of any other array its length."""
    kind = reader.number("I")
    if kind == GGUF_TEXT:
        length = reader.count(8)
        for _number in range(length):
            reader.text(keep=False)
        return length
    if kind not in GGUF_SCALARS:
        raise DamagedWeights("an array has an unknown type")
    width = struct.calcsize(GGUF_SCALARS[kind])
    length = reader.count(width)
    if length <= MAX_KEPT_ARRAY:
        return list(struct.unpack(f"<{length}{GGUF_SCALARS[kind]}", reader.take(length * width)))
    reader.skip(length * width)
    return length


def _gguf_tensor(reader: HeaderReader) -> tuple[int, int, str]:
    """Offset in the data, bytes, and type."""
    if len(reader.text() or "") > 64:
        raise DamagedWeights("a tensor's name is too long")
    rank = reader.number("I")
    if rank > 4:
        raise DamagedWeights("a tensor has too many dimensions")
    shape = [reader.number("Q") for _number in range(rank)]
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in GGUF_TYPES or max(shape, default=1) > MAX_DIMENSION:
        raise DamagedWeights("a tensor has an unknown type or an impossible shape")
    name, block, block_bytes = GGUF_TYPES[kind]
    if shape and shape[0] % block:
        raise DamagedWeights("a tensor does not fill its blocks")
    return offset, prod(shape) // block * block_bytes, name


def _gguf_weights(tensors: list[tuple[int, int, str]], metadata: dict, reader: HeaderReader) -> Weights:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MIB or alignment & (alignment - 1):
        raise DamagedWeights("the alignment is impossible")
    data_start = -(-reader.position // alignment) * alignment
    types = Counter[str]()
    for offset, size, dtype in tensors:
        if offset % alignment or data_start + offset + size > reader.size:
            raise DamagedWeights("a tensor lies outside the file")
        types[dtype] += size
    if not types:
        raise DamagedWeights("there are no tensors")
    return Weights(types.total(), types.most_common(1)[0][0], metadata)
