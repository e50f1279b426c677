"""What the benchmark runs in processes of their own, by path and with other Pythons: imports no room of the project."""
