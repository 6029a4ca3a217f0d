"""LoRA adapters of base models: versions are saved, published, rolled back and deleted."""
