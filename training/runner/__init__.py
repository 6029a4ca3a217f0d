"""Makes trainers equal to the rows of training jobs, in the ticks of the node's agent. See docs/training.md."""
