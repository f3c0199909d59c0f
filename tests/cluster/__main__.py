"""The cluster's command: `python -m tests.cluster --help`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from tests.cluster import tekton
from tests.cluster.images import recipes
from tests.cluster.images.importing import load
from tests.cluster.machine import lifecycle, places
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.progress import phase, say
from tests.cluster.machine.report import report


class _Failing(click.Group):
    """Shows what is wrong with the cluster as it says it, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RuntimeError as error:
            say(str(error))
            sys.exit(1)


@click.group(cls=_Failing, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--instance", default="", help="A further cluster of this checkout, by any name.")
@click.pass_context
def commands(context: click.Context, instance: str) -> None:
    """A single-node Kubernetes on this machine, in namespaces of its own."""
    context.obj = Cluster(places.places(instance))


@commands.command()
@click.option("--bare", is_flag=True, help="Kubernetes alone: without Tekton and the project's images.")
@click.pass_obj
def up(cluster: Cluster, bare: bool) -> None:
    """Build what is missing, start what does not run, and wait until a first TaskRun has run."""
    lifecycle.require(bare=bare)
    with phase("up, all in all"):
        cluster.up()
        if not bare:
            with phase("images"):
                load(recipes.everything(), cluster.ctr())
            with phase("Tekton, a first TaskRun"):
                tekton.install(cluster.places.kubeconfig)
    click.echo(f"export KUBECONFIG={cluster.places.kubeconfig}")


@commands.command()
@click.pass_obj
def down(cluster: Cluster) -> None:
    """Remove the cluster: processes, containers, mounts, network, cgroups, files. What was built stays."""
    with phase("down"):
        cluster.down()


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(cluster: Cluster, as_json: bool) -> None:
    """Show every component and say what is wrong. The exit code is 0 if all works."""
    found = report(cluster)
    click.echo(found.json() if as_json else found.text())
    sys.exit(0 if found.works else 1)


@commands.command()
@click.argument("component")
@click.option("--signal", "number", type=int, default=15, show_default=True, help="What ends it.")
@click.pass_obj
def restart(cluster: Cluster, component: str, number: int) -> None:
    """End a component, start it anew and wait until it works."""
    cluster.restart(component, number)


@commands.command(name="image-import")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def image_import(cluster: Cluster, archive: Path) -> None:
    """Import the images of an OCI or Docker archive into the node."""
    with phase(f"imported {archive}"):
        cluster.load(archive)


@commands.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def execute(cluster: Cluster, command: tuple[str, ...]) -> None:
    """Run a command in the node, with its mounts, network and processes; a shell if none is given."""
    entered = [*cluster.node.enter(), *(command or ("bash",))]
    os.execvp(entered[0], entered)


@commands.command()
def build() -> None:
    """Get and build everything that a cluster needs, and start nothing."""
    with phase("build, all in all"):
        lifecycle.prepare()
        with phase("images"):
            recipes.everything()


if __name__ == "__main__":
    commands(prog_name="python -m tests.cluster")
