"""Look at a data file before anything is trained on it, and show what was found."""

import json
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asktwice.console import step
from contracts.dataset import read_dataset
from contracts.errors import InvalidInput
from trainer.check import DataReport, check_data
from trainer.plan import read_rows
from trainer.recipe import read_recipe
from trainer.settings import trainer_settings

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "error": "[red]error[/]"}
SHOWN = 5


def check_file(
    path: str, test: str | None, base: str | None, recipe: str | None, as_json: bool
) -> Literal["ok", "warn", "error"]:
    """Check a file and print the findings on stdout; the gravest level is returned.

    Args:
        path: the file, or a dataset of the hub; see :func:`contracts.dataset.read_dataset`.
        test: a file that is meant to measure; only its questions are needed.
        base: the base model whose tokenizer measures the rows, hub id or folder; None leaves the lengths out.
        recipe: name or file of the recipe that is meant; None takes the trainer's own.

    Raises:
        InvalidInput: a file, the recipe or the tokenizer cannot be read.
    """
    # What the environment says of a training holds for its check; its name is not used.
    settings = trainer_settings(data=Path(path), name="check", base=base, recipe=recipe)
    chosen = read_recipe(settings.recipe)
    table = read_rows(path, chosen)
    test_table = read_dataset(test, ("question",), ("answer", "context")) if test else None
    with step(f"Checking {path}") as advance:
        tokenizer = _tokenizer(base) if base else None
        report = check_data(table, tokenizer, chosen, settings.system_prompt, test_table, advance)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        show(report)
    return report.level


def show(report: DataReport) -> None:
    """Print the findings as a table, under what is wrong the first examples."""
    table = Table("", "what", "found", show_lines=False)
    for finding in report.findings:
        # The texts are the user's: a bracket in them is no markup.
        found = "\n".join([escape(finding.message), *(f"[dim]{escape(line)}[/]" for line in finding.lines(SHOWN))])
        table.add_row(MARKS[finding.level], finding.name, found)
    Console(highlight=False).print(table)
    if report.tokens is None:
        typer.echo("Lengths in tokens were not measured: name the base model with --base.")


def _tokenizer(base: str) -> object:
    from trainer.model import load_tokenizer

    try:
        return load_tokenizer(base)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"The tokenizer of {base} cannot be loaded: {reason} Is --base a hub id or a folder?"
        ) from error
