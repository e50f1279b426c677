"""``napu-node``'s entry: takes signals before it loads what takes time, so that a node can be stopped as it starts."""

from appliance.stopping import leave_on_signal


def run() -> None:
    """Run ``napu-node``."""
    leave_on_signal()
    from appliance.cli import run as serve

    serve()


if __name__ == "__main__":
    run()
