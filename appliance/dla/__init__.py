"""Deep learning accelerators: what runs a model on a batch."""
