"""Sans-IO state machines of the protocol: bytes and times in, bytes and events out."""
