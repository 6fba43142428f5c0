"""How `vllm-engine --help` lists the commands: by what they are for, and no line is cut."""

from __future__ import annotations

import click

SECTIONS = {
    "Serve a model": ("serve", "download"),
    "Use a running server": ("chat", "bench", "smoke"),
    "Check this machine": ("doctor", "settings"),
    "For shells": ("completion", "dotenv"),
}


class Commands(click.Group):
    """The commands in their sections."""

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section, with the first paragraph of each command's help."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, _summary(self.commands[name])) for name in names])


def _summary(command: click.Command) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())
