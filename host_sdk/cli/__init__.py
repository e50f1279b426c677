"""``napu``: parses, calls the library, prints; nothing else. The composition root of the host's side."""
