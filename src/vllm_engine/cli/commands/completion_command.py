"""`vllm-engine completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_VLLM_ENGINE_COMPLETE"
"""The name that click asks for: it is made of the program's."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands and options.

    Put eval "$(vllm-engine completion bash)" into ~/.bashrc; or the same with zsh into ~/.zshrc; for fish
    write it to ~/.config/fish/completions/vllm-engine.fish.
    """
    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"nothing is known of {shell}")
    print(completer(context.find_root().command, {}, "vllm-engine", _VARIABLE).source())
