"""`vllm-engine completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_VLLM_ENGINE_COMPLETE"
"""The variable that click derives from the program's name."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print a shell completion script.

    Add eval "$(vllm-engine completion bash)" to ~/.bashrc, or the same with zsh to ~/.zshrc; for fish write
    the script to ~/.config/fish/completions/vllm-engine.fish.
    """
    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"click does not support {shell}")
    print(completer(context.find_root().command, {}, "vllm-engine", _VARIABLE).source())
