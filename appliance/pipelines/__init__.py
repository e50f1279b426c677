"""From a manifest to a compiled pipeline: stages before the model, the model, stages after it."""
