"""The `neva-prep` command: a group whose commands are imported only when they are called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from . import __version__
from .errors import NevaPrepError

# command -> (where it lives, one line for --help). Kept here so that --help imports nothing else.
COMMANDS = {
    "convert": ("dataprep.convert_command:convert", "Turn a source and its images into shards."),
    "doctor": ("dataprep.doctor.command:doctor", "Say what is wrong with a source, and fix it."),
    "verify": ("dataprep.look_commands:verify", "Re-read a dataset and check everything in it."),
    "inspect": ("dataprep.look.command:inspect", "Show a sample, its tokens, packs and batches."),
    "explain": ("dataprep.look.explain_command:explain", "Show which tokens are trained, and why."),
    "templates": ("templates.commands:templates", "List conversation templates, or show one."),
    "golden": ("templates.commands:golden", "Freeze tokens and labels, and check them later."),
    "parity": ("templates.commands:parity", "Compare our prompt with what serving will use."),
    "plan": ("dataprep.stream_commands:plan", "Divide a dataset among GPUs and workers."),
    "stats": ("dataprep.stats.command:stats", "Count what a dataset holds, and how it packs."),
    "diff": ("dataprep.doctor.diff_command:diff", "Say how two sources or datasets differ."),
    "trace": ("dataprep.stream_commands:trace", "Turn keys of a batch back into source records."),
    "train": ("trainer.train_command:train", "Train a NeVA model on a dataset, from a recipe."),
    "import": ("trainer.convert_commands:import_model", "Make a checkpoint of a LLaVA model."),
    "export": ("trainer.convert_commands:export", "Write a checkpoint as a Hugging Face model."),
    "demo": ("dataprep.look_commands:demo", "The main job end to end on pictures that it draws."),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The click command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(
            importlib.import_module(f".{module}", __package__), attribute
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


EPILOG = """\b
Examples:
  neva-prep convert llava.json --images images/ --out shards/
  neva-prep verify shards/
  neva-prep inspect shards/ --index 3
\b
Shell completion:
  eval "$(_NEVA_PREP_COMPLETE=bash_source neva-prep)"     (zsh_source, fish_source)
\b
Exit codes: 0 ok, 1 failure, 2 usage, 3 source invalid,
            4 finished with quarantined records, 130 interrupted,
            143 saved and stopped on SIGTERM.
"""


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="neva-prep")
def root() -> None:
    """Turn multimodal conversations into the batches a NeVA / LLaVA-1.5 model trains on."""


def main() -> None:
    """Entry point: a NevaPrepError becomes one message and an exit code."""
    # NumPy's BLAS starts a thread for each core in every process, which spins; none is needed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        sys.exit(root(standalone_mode=False) or 0)
    except NevaPrepError as error:
        # Messages quote the data of strangers.
        from .dataprep.plain_text import plain_text

        click.echo(f"neva-prep: {plain_text(str(error))}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("neva-prep: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has left.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        click.echo(f"neva-prep: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
