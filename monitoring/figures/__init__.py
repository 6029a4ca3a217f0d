"""Metrics: their catalogue, samples, roll-ups and queries."""
