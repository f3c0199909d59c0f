"""`kubectl resultsfs` and `tkn resultsfs`: the same command, about a cluster's runs."""

from __future__ import annotations

from resultsfs.cli import main
from resultsfs.cli.clusters import PLUGIN


def kubectl() -> None:
    """`kubectl-resultsfs`, which kubectl finds in PATH."""
    main("kubectl resultsfs", PLUGIN)


def tkn() -> None:
    """`tkn-resultsfs`, which tkn finds in PATH."""
    main("tkn resultsfs", PLUGIN)
