"""A tiny cross-encoder for tests of ranking, trained to score how many query words a document contains."""

from pathlib import Path

FOLDER = Path(__file__).parent / "word-overlap"
