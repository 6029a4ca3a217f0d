"""The parent of one engine: starts it, keeps its output, writes its state and ends its whole process tree.

It runs as `python -I -S <this folder> <instance folder>`, outside of the product: it imports its own modules
and the standard library, nothing else, so that it outlives every other process and costs little. Linux only.
"""
