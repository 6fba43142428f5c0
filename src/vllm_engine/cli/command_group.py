"""How `vllm-engine --help` lists the commands: by what they are for, and no line is cut."""

from __future__ import annotations

import click

SECTIONS = {
    "Serve a model": ("plan", "serve", "worker", "vllm", "download"),
    "Use a running server": ("chat", "bench", "smoke"),
    "Check this machine": ("doctor", "settings"),
    "For shells": ("completion", "dotenv"),
}


_ELSEWHERE = {
    "run": "serve MODEL` and, in another terminal, `vllm-engine chat",
    "pull": "download MODEL",
    "prompt": 'chat "QUESTION"',
    "complete": 'chat "QUESTION"',
}
"""Commands of ollama, llm and vllm, and ours to use instead."""


def command_meant(word: str) -> str | None:
    """Return our command for which a word that is none was probably meant, as it follows `vllm-engine`."""
    from vllm_engine.config.spelling import closest

    if word in _ELSEWHERE:
        return _ELSEWHERE[word]
    return closest(word, (name for names in SECTIONS.values() for name in names), similarity=0.7)


class Commands(click.Group):
    """The commands in their sections."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for a misspelt one and for another program's, say which is meant."""
        if args[0] not in self.commands and (meant := command_meant(args[0])):
            ctx.fail(f"No such command {args[0]!r}. Did you mean `vllm-engine {meant}`?")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section, with the first paragraph of each command's help."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, _summary(self.commands[name])) for name in names])


def _summary(command: click.Command) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())
