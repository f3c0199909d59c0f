"""The command `python -m controller`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from controller.identity import Place
from controller.kube.endpoint import SERVICE_ACCOUNT, from_kubeconfig, in_cluster
from resultsfs.cli.plugins import Extensible

WEBHOOKS = "resultsfs"
"""The MutatingWebhookConfiguration that the chart makes."""
SERVICE = "resultsfs-controller"
"""The Service by which the API server reaches the replicas."""


@click.group(cls=Extensible, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """The controller of resultsfs."""


@commands.command()
@click.option("--listen", default=":8443", show_default=True, metavar="[HOST]:PORT", help="HTTPS: webhooks, HTTP API.")
@click.option("--metrics", default=":9812", show_default=True, metavar="[HOST]:PORT", help="HTTP: probes, metrics.")
@click.option("--settings", metavar="PATH", help="The mounted ConfigMap, or a YAML file; see docs/settings.md.")
@click.option(
    "--certificate-directory", default="", metavar="DIR", help="tls.crt and tls.key that somebody else makes."
)
@click.option("--certificate-secret", default="", metavar="NAME", help="Make them, and keep them in this Secret.")
@click.option("--token-secret", default="", metavar="NAME", help="With a directory: where the webhooks' token is kept.")
@click.option("--webhooks", default=WEBHOOKS, show_default=True, metavar="NAME", help="The webhook configuration.")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="Names in the certificate. Default: the Service's."
)
@click.option("--kubeconfig", metavar="FILE", help="Default: the pod's service account.")
@click.option(
    "--service-account",
    "account",
    default=str(SERVICE_ACCOUNT),
    metavar="DIR",
    help="Where the pod's token, ca.crt and namespace are.",
)
@click.option("--drain", default=5.0, show_default=True, metavar="SECONDS", help="Answer so long after SIGTERM.")
@click.option(
    "--patience",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Break off whoever takes nothing for so long.",
)
def serve(
    listen: str,
    metrics: str,
    settings: str | None,
    certificate_directory: str,
    certificate_secret: str,
    token_secret: str,
    webhooks: str,
    hosts: tuple[str, ...],
    kubeconfig: str | None,
    account: str,
    drain: float,
    patience: float,
) -> None:
    """Serve admission and the HTTP API, and take turns at collecting garbage."""
    from controller.serve import Options, Replica

    if bool(certificate_directory) == bool(certificate_secret):
        raise click.UsageError("name either --certificate-directory or --certificate-secret")
    if token_secret and certificate_secret:
        raise click.UsageError("the token is in the certificate's Secret: --token-secret is for a directory")
    found = from_kubeconfig(kubeconfig) if kubeconfig else in_cluster(Path(account))
    namespace = os.environ.get("NAMESPACE") or found.namespace
    place = Place(
        namespace=namespace,
        secret=certificate_secret or token_secret,
        webhooks=webhooks,
        hosts=hosts or (f"{SERVICE}.{namespace}.svc", f"{SERVICE}.{namespace}.svc.cluster.local"),
        certificate_directory=certificate_directory,
    )
    Replica(found, Options(listen, metrics, settings, place, drain, patience)).run()


def main() -> None:
    """The program."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    commands.main(prog_name="python -m controller")
