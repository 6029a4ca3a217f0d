"""The parent of one engine: starts it, logs its output, writes its state and ends its whole process tree.

It runs as `python -I -S <this folder> <instance folder>`, apart from the product: it imports only its own
modules and the standard library, so that it outlives every other process and costs little. Linux only.
"""
