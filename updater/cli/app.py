"""The command line's frame: global options, one error boundary, one way to answer.

Not the commands (the other files of this package) and not the work. Exit codes: 0 done (a
rejection is a result), 1 failed and may be run again, 2 bad input or configuration, 3 with
--fail-on-reject where the gate did not accept, 130 interrupted.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler

from updater import __version__
from updater.errors import did_you_mean

if TYPE_CHECKING:
    from updater.config import Override
    from updater.workspace import Workspace

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NOT_ACCEPTED, EXIT_INTERRUPTED = 1, 2, 3, 130

AT_NIGHT = ("workspace", "store")
"""The sections of the configuration that releases, and a look at them, use: whatever is wrong in
others, they work."""

PIPE_COLUMNS = 1000
"""As wide as any line in a pipe: what is not looked at on a screen is not wrapped."""

LOG_TIME = "%H:%M:%S"

SECTIONS = {
    "Start": ("demo", "init", "adopt", "scratch"),
    "Update": ("due", "ingest", "update", "compress", "step", "skip", "abandon", "pytorchjob"),
    "Look": (
        *("status", "periods", "scores", "history", "show", "evaluate", "compare", "report"),
        "doctor",
    ),
    "Release": ("promote", "rollback", "approve", "reject", "export"),
    "Study": ("study",),
    "Serve": ("up", "join"),
}


@dataclass
class Session:
    """What the global options say; handed to every command as `click.Context.obj`."""

    folder: Path = Path()
    as_json: bool = False
    quiet: bool = False
    traceback: bool = False
    overrides: "tuple[Override, ...]" = ()

    def workspace(self, needed: Sequence[str] = ()) -> "Workspace":
        """The workspace that the command works on; `needed` as `Workspace.open` has it. Raises:
        InputError."""
        from updater.workspace import Workspace

        progress = not self.quiet
        return Workspace.open(self.folder, self.overrides, needed=needed, progress=progress)

    def answer(self, value: dict[str, Any], show: Callable[[Console], None]) -> None:
        """One JSON object for programs, or what `show` prints for people; always on stdout."""
        if self.as_json:
            click.echo(json.dumps(value, allow_nan=False))
        elif sys.stdout.isatty():
            show(Console(highlight=False))
        else:
            console = Console(highlight=False, width=PIPE_COLUMNS)
            with console.capture() as printed:
                show(console)
            # rich fills every cell of a table with blanks, up to the widest one's end.
            for line in printed.get().splitlines():
                click.echo(line.rstrip())


def _set_folder(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).folder = value


def _set_flag(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        setattr(context.ensure_object(Session), str(parameter.name), True)
    if value and parameter.name == "quiet":  # also where it stands after the command's name
        logging.getLogger("updater").setLevel(logging.WARNING)


def _set_overrides(context: click.Context, _: click.Parameter, value: Sequence[str]) -> None:
    if value:
        context.ensure_object(Session).overrides += tuple(value)


def _global_options() -> list[click.Option]:
    """The options that every command takes, before or after its name."""

    def option(*names: str, callback: Callable[..., None], help: str, **more: Any) -> click.Option:
        return click.Option(list(names), callback=callback, expose_value=False, help=help, **more)

    def flag(*names: str, help: str) -> click.Option:
        return option(*names, callback=_set_flag, help=help, is_flag=True)

    return [
        option(
            "--workspace",
            "workspace_folder",
            type=click.Path(path_type=Path),
            metavar="DIR",
            callback=_set_folder,
            help="The workspace; else UPDATER_WORKSPACE, else the current folder.",
        ),
        option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_set_overrides,
            help="Override one setting for this run, as in --set training.epochs=2.",
        ),
        flag("--json", "as_json", help="Answer with one JSON object on the last line of stdout."),
        flag("--quiet", help="No progress on stderr."),
        flag("--traceback", help="Show where an error arose, for a bug report."),
    ]


class Command(click.Command):
    """A command that also takes the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _global_options()
        self.no_args_is_help = False


class Group(click.Group):
    """The commands, with the nearest name offered for one that doesn't exist."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _global_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a model's life, not of the alphabet."""
        return [name for names in SECTIONS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under a heading for each thing that people come to do."""
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(70)) for name in names]
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            near = did_you_mean(args[0], self.commands)
            cure = f": {near}?" if near else "."
            raise click.UsageError(f"no command {args[0]!r}{cure}", ctx)
        return super().resolve_command(ctx, args)


def many_periods(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --periods P..., for a command with parameters `periods` and `more`.

    click's options take a fixed number of words: the first follows --periods, the others are the
    command's last arguments.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.argument("more", nargs=-1, metavar="")(function)
        return click.option(
            "--periods",
            multiple=True,
            required=required,
            metavar="P...",
            help="Period ids; FIRST..LAST is a range.",
        )(function)

    return decorate


reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; it stands in the history for ever."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="updater")
@click.pass_context
def app(context: click.Context) -> None:
    """Keep a deployed Nemotron 3 model up to date without letting it forget.

    \b
    A first model:   updater init DIR; updater scratch --periods P1 P2 --deploy
    A new period:    updater update P3
    At 3 a.m.:       updater rollback --reason "wrong answers since noon"
    """
    session = context.ensure_object(Session)
    _log_to_stderr(session)


def _log_to_stderr(session: Session) -> None:
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(
            console=Console(stderr=True, highlight=False),
            show_path=False,
            show_level=False,
            log_time_format=LOG_TIME,
        )
    else:  # where nothing is wrapped: a path that is broken in two can't be copied
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", LOG_TIME))
    logger = logging.getLogger("updater")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if session.quiet else logging.INFO)
