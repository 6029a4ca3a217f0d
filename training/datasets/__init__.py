"""Uploaded datasets: rows, splits, files and their tokens."""
