"""The commands of ``napu``."""

import typer

from host_sdk.cli.attest import attest
from host_sdk.cli.bench import bench
from host_sdk.cli.ca import ca_app
from host_sdk.cli.capture import capture
from host_sdk.cli.cluster import cluster_app
from host_sdk.cli.conformance import conformance
from host_sdk.cli.demo import demo
from host_sdk.cli.dissector import dissector_app
from host_sdk.cli.explain import decode, explain
from host_sdk.cli.fw import fw_app
from host_sdk.cli.lab import lab_app, link
from host_sdk.cli.load import load
from host_sdk.cli.manage import console, status
from host_sdk.cli.query import discover, infer, pipelines_app, stats
from host_sdk.cli.replay import replay
from host_sdk.cli.trace import trace

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
app.command()(load)
app.add_typer(cluster_app, name="cluster")
app.add_typer(pipelines_app, name="pipelines")
app.command()(stats)
app.command()(console)
app.command()(status)
app.add_typer(fw_app, name="fw")
app.command()(attest)
app.add_typer(lab_app, name="lab")
app.add_typer(ca_app, name="ca")
app.command()(link)
app.command()(capture)
app.command()(decode)
app.command()(explain)
app.add_typer(dissector_app, name="dissector")
app.command()(bench)
app.command()(conformance)
app.command()(replay)
app.command()(trace)
