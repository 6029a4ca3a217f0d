"""The program that trains a LoRA adapter: `<engine environment's python> <this folder> <folder>/spec.json`.

It runs under the shim in the engine's environment, without Django, database or network: its input is `spec.json`, its
events go to `progress.jsonl` beside it. Some modules need only the standard library. Of these, the rest of the tree
uses `checkpoints`, `conversation` and `spec`, so that the rules for checkpoints and rows exist once. Nothing here
imports the rest of the tree. See docs/training.md.
"""
