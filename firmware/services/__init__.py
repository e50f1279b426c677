"""What the firmware does for those who ask: identity, discovery, pipelines, statistics, logs."""
