"""Adapters: what trainings have made of a base model, each version kept, published, rolled back and deleted."""
