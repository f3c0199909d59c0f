"""Options that several commands share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from resultsfs import settings as settings_module
from resultsfs import transport
from resultsfs.errors import InvalidSetting
from resultsfs.reference import WHOLE_ARRAY, Reference
from resultsfs.settings import Settings
from resultsfs.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])

store_option = click.option("--store", metavar="URL", help="Where spilled content lies; default: the settings' store.")
settings_option = click.option(
    "--settings",
    "settings_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Settings as YAML: the ConfigMap's manifest or its data; see docs/settings.md.",
)
transport_option = click.option(
    "--transport",
    type=click.Choice(transport.TRANSPORTS),
    default=transport.AUTO,
    show_default=True,
    help="The way to the kernel: the native session, libfuse by fusepy, or the first where it can run.",
)
namespace_option = click.option("-n", "--namespace", metavar="NAMESPACE", help='Default: the run\'s, else "default".')
format_option = click.option(
    "--output",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


class TargetCommand(click.Command):
    """A command whose target may be a reference's name, which begins with `-` like an option once in 64 times."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give names that look like options as whole paths."""
        return super().parse_args(ctx, [_whole_path(word) for word in args])


def _whole_path(word: str) -> str:
    name = word.removesuffix(WHOLE_ARRAY)
    reference = Reference.from_name(name)
    return word if reference is None else f"{reference}{word[len(name) :]}"


def settings_from(
    settings_file: str | None, store: str | None, otherwise: Mapping[str, object] | None = None
) -> Settings:
    """The settings of a file, else those of `otherwise`, with the store replaced where one is named.

    Raises InvalidSetting.
    """
    if settings_file is not None:
        settings = settings_module.load(settings_file)
    else:
        settings = settings_module.from_mapping(otherwise or {})
    return settings if store is None else dataclasses.replace(settings, store=store)


def opened_for_many(settings: Settings) -> tuple[Settings, Store]:
    """A store that several processes can share, and the settings with its URL spelled out.

    Raises InvalidSetting for one that lives in the memory of one process.
    """
    store = Store.open(settings)
    if store.url.startswith("memory:"):
        raise InvalidSetting(
            f"store is {store.url!r}: it lives in the memory of one process, and here several need it; "
            "use file:///directory"
        )
    return dataclasses.replace(settings, store=store.url), store
