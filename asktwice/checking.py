"""Look at a data file before anything is trained on it, and show what was found."""

import json
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asktwice.console import step
from contracts.dataset import read_dataset
from trainer.check import DataReport, Finding, check_data
from trainer.plan import read_rows
from trainer.recipe import read_recipe
from trainer.settings import trainer_settings

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "error": "[red]error[/]"}
SHOWN = 5


def check_file(path: str, test: str | None, base: str, recipe: str, as_json: bool) -> Literal["ok", "warn", "error"]:
    """Check a file and print the findings on stdout; the gravest level is returned.

    Args:
        path: the file, or a dataset of the hub; see :func:`contracts.dataset.read_dataset`.
        test: a file that is meant to measure; only its questions are needed.
        base: the base model whose tokenizer measures the rows, hub id or folder. Where its tokenizer cannot be loaded,
            the lengths are not measured, and a finding says why.
        recipe: name or file of the recipe that is meant.

    Raises:
        InvalidInput: a file or the recipe cannot be read.
    """
    # The system prompt of the environment is that of the training; the name is not used.
    settings = trainer_settings(data=Path(path), name="check", base=base, recipe=recipe)
    chosen = read_recipe(recipe)
    table = read_rows(path, chosen)
    test_table = read_dataset(test, ("question",), ("answer", "context")) if test else None
    with step(f"Checking {path} by the recipe {recipe}") as advance:
        tokenizer, missing = _tokenizer(base)
        report = check_data(table, tokenizer, chosen, settings.system_prompt, test_table, advance)
        report.findings.extend(missing)
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


def _tokenizer(base: str) -> tuple[Any | None, list[Finding]]:
    """Return the tokenizer, or None and what that means for the check."""
    from trainer.model import load_tokenizer

    try:
        return load_tokenizer(base), []
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".: ")
        message = (
            f"not measured: the tokenizer of {base} cannot be loaded: {reason}. Is it a hub id or a folder? A hub id"
            " needs the network once; --base FOLDER names a model on this machine."
        )
        return None, [Finding("lengths", "warn", 0, 0, message)]
