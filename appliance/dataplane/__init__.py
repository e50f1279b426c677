"""The hot path: frames in, classified, queued, run in batches, answered. Batches all the way, no object for a frame."""
