"""The program that teaches a model by LoRA: `<engine environment's python> <this folder> <folder>/spec.json`.

It runs under the shim in the engine's environment and knows nothing of Django, a database or a network: what it is to
do is in `spec.json`, what it has to say goes to `progress.jsonl` beside it. Some modules need the standard library
only. Of these the rest of the tree uses `checkpoints` and `conversation`, so that there is one way to check a
checkpoint and one way to read a row; nothing here imports the rest of the tree. See docs/training.md.
"""
