"""Reconciles a node's trainers with the rows of training jobs, in each tick of its agent. See docs/training.md."""
