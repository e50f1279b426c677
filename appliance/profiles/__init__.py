"""Hardware as data: one TOML file for each board."""
