"""The benchmark harness: appliances and inference servers under the same load, on the same models."""
