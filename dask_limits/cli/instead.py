"""Answers options of other programs with those of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

_INSTEAD: Final[Mapping[str, str]] = {
    "--jobs": "--workers",
    "-j": "--workers",
    "--timeout": "--wall-time",
    "--time": "--wall-time (of each command) or --walltime (of each job)",
    "--mem": "--memory",
    "--memfree": "--memory",
    "--results": "--out",
    "--joblog": "--out",
    "--halt": "--fail-fast",
}
"""Options of GNU parallel and SLURM, and what `batch` has."""


_QUOTES: Final = (
    "A command is one argument: put all of it in quotes, as in 'python train.py --seed {seed}'."
)


class BatchCommand(click.Command):
    """A command that knows what people type who have used GNU parallel."""

    allow_extra_args = True  # so that they are answered here

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options; an error says what there is instead."""
        has_template = any(arg.startswith(("--param", "--csv")) for arg in args)
        try:
            others = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = _INSTEAD.get(error.option_name)
            if instead is None and not has_template:
                raise
            what = _QUOTES if instead is None else f"Use {instead}."
            message = f"No such option: {error.option_name}. {what}"
            raise click.NoSuchOption(error.option_name, message, ctx=ctx) from None
        if others:
            ctx.fail(f"Got {' '.join(others)!r} beside the first argument. {_QUOTES}")
        return others
