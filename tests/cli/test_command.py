"""The command itself: help, completion, how errors end."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cli.conftest import Home

COMMANDS = ("run", "list", "get", "stat", "mount", "unmount", "doctor", "completion")


def test_help_names_every_command(home: Home) -> None:
    """`--help` lists all commands, and each has its own help."""
    text = home.run("--help").text
    for command in COMMANDS:
        assert f"\n  {command} " in text
        done = home.run(command, "-h")
        assert done.code == 0 and done.text.startswith(f"Usage: resultsfs {command}")


def test_the_version(home: Home) -> None:
    """`--version` says which one it is."""
    assert home.run("--version").text.startswith("resultsfs, version ")


def test_an_unknown_command_is_named(home: Home) -> None:
    """What is no command ends with 2 and its name."""
    home.run("destroy").complains(2, "'destroy'")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(home: Home, shell: str) -> None:
    """The script is one that its shell can read, where that shell is here; it says how to load it."""
    done = home.run("completion", shell)
    assert done.code == 0 and "resultsfs completion" in done.text
    assert "_RESULTSFS_COMPLETE" in done.text
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.out, check=True)


def test_an_unknown_shell_is_named(home: Home) -> None:
    """Shells that are not supported are refused with those that are."""
    home.run("completion", "tcsh").complains(2, "'tcsh'", "bash", "fish")


def test_words_are_completed(home: Home) -> None:
    """What the scripts call completes commands."""
    home.environment.update(_RESULTSFS_COMPLETE="bash_complete", COMP_WORDS="resultsfs mo", COMP_CWORD="1")
    assert home.run().text.splitlines() == ["plain,mount"]
