"""Makes the demo model: a small chat model trained from nothing, on a CPU, in about five minutes."""
