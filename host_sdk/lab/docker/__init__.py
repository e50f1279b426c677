"""Labs of containers. Only its modules import the Docker SDK, which a machine without Docker labs can do without."""
