"""``napu``: where the program begins."""

import os
import sys

EXIT_INTERRUPTED = 130


def run() -> None:
    """Run ``napu``; Ctrl-C ends it without a traceback, and so does a reader that has gone."""
    try:
        # Here and not above: Ctrl-C may well come while the commands and numpy are still being imported.
        from host_sdk.cli.app import app

        app(prog_name="napu")
    except KeyboardInterrupt:
        sys.stderr.write("napu: interrupted\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output, such as head(1), has closed it; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
