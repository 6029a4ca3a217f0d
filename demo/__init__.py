"""Makes the demo model: a small chat model trained from scratch on a CPU, in about five minutes."""
