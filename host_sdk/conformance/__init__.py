"""A suite that any responder, emulated or real, can be held to: every MUST of the protocol that shows from outside."""
