"""``napu``: the command line."""

import os
import sys

import typer

from host_sdk.cli.demo import demo
from host_sdk.cli.lab import lab_app, link
from host_sdk.cli.output import EXIT_INTERRUPTED
from host_sdk.cli.query import discover, infer, pipelines_app, stats

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Network-attached inference appliances: find them, run inferences on them, make labs of them. "
        "Exit status: 0 success, 1 an appliance or the link failed, 2 wrong arguments, 3 nobody answered in time, "
        "130 interrupted."
    ),
)
app.command()(demo)
app.command()(discover)
app.command()(infer)
app.add_typer(pipelines_app, name="pipelines")
app.command()(stats)
app.add_typer(lab_app, name="lab")
app.command()(link)


def run() -> None:
    """Run ``napu``; Ctrl-C ends it without a traceback, and so does a reader that has gone."""
    try:
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
