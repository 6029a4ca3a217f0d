"""A tiny cross-encoder for tests of ranking: trained to score how many words of a query a document has."""

from pathlib import Path

FOLDER = Path(__file__).parent / "word-overlap"
