"""Sealed frames: keys that were granted over TLS, the replay window, and the link that seals and opens."""
