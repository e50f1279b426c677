"""Pre- and post-processing stages: image decoding and scaling, and arithmetic over batches of tensors."""
