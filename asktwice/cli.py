"""The command line: ``asktwice demo | serve | index | data | train | ask | evaluate | adapters | bench | doctor``.

Each command is a few lines here; heavy imports stay inside, so that ``--help`` is instant.
"""

import json
import logging
import sqlite3
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from httpx import InvalidURL
from pydantic import ValidationError

from asktwice import console
from asktwice.profiles import FIVE_QUESTIONS, SAMPLE_DATA, Prepared, Profile, ProfileName, choose, remembered
from contracts.artifacts import Home
from contracts.errors import AskTwiceError, InvalidInput
from contracts.generation import Mode
from trainer.settings import share_cores

if TYPE_CHECKING:
    from asktwice.embedded import EmbeddedSettings

cli = typer.Typer(
    help="RAG or fine-tuning? Ask every question twice and see. Start with: asktwice demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="markdown",
)

bench = typer.Typer(help="Measure a part on this machine.", no_args_is_help=True, rich_markup_mode="markdown")
cli.add_typer(bench, name="bench")
adapters = typer.Typer(help="The adapters of a home.", no_args_is_help=True, rich_markup_mode="markdown")
cli.add_typer(adapters, name="adapters")
data_files = typer.Typer(help="Data files, before they are used.", no_args_is_help=True, rich_markup_mode="markdown")
cli.add_typer(data_files, name="data")

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="ASKTWICE_HOME", help="Folder with indexes, adapters and evaluations.")
]
ProfileOption = Annotated[
    ProfileName,
    typer.Option("--profile", envvar="ASKTWICE_PROFILE", help="Which models to run; auto picks by the machine."),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="ASKTWICE_URL", help="Work through a running server, e.g. http://127.0.0.1:8000"),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", envvar="ASKTWICE_BASE", help="Base model: hub id or folder. Default: the profile's."),
]
EmbeddingOption = Annotated[
    str | None,
    typer.Option(
        "--embedding",
        envvar="ASKTWICE_EMBEDDING",
        help="sentence-transformers id, folder, or minilm. Default: the profile's.",
    ),
]
HOME = Path("artifacts")


class Method(StrEnum):
    full = "full"
    lora = "lora"
    qlora = "qlora"
    raft = "raft"


MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        help="full: every weight; lora: an adapter; qlora: one on the 4-bit base; raft: one that reads retrieved"
        " passages, for the mode rag_ft. Default: the recipe's.",
    ),
]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="Recipe file or name. Default: the profile's.")]


class Language(StrEnum):
    ru = "ru"
    en = "en"


class Tracker(StrEnum):
    none = "none"
    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"
    trackio = "trackio"


@cli.command(epilog="Example: `asktwice demo --data my.csv`")
def demo(
    data: Annotated[Path, typer.Option("--data", help="CSV with question, answer, context.")] = SAMPLE_DATA,
    questions: Annotated[Path, typer.Option("--questions", help="One question a line.")] = FIVE_QUESTIONS,
    out: Annotated[Path, typer.Option("--out", help="Where to put result.txt.")] = Path("result.txt"),
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.demo,
) -> None:
    """The whole road once: index, train, serve, ask both ways, write result.txt."""
    from asktwice.demo import run_demo

    run_demo(Home(path=home), _profile(profile, home), data, questions, out)


@cli.command(
    epilog='Example: `asktwice serve --port 8000`, then `curl -d \'{"question": "..."}\' ...:8000/ask?mode=rag`'
)
def serve(
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    data: Annotated[
        Path | None, typer.Option("--data", help="CSV to index at start. Default: what the demo used.")
    ] = None,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    base: BaseOption = None,
    embedding: EmbeddingOption = None,
    winner: Annotated[
        str | None,
        typer.Option(
            "--winner",
            help="Evaluation whose winner /ask?mode=auto answers with, once its measured answers are found again.",
        ),
    ] = None,
) -> None:
    """Serve all modes on one port until Ctrl-C."""
    from asktwice.serving import serve_forever
    from asktwice.winning import serve_winner

    logging.getLogger("asktwice").setLevel(logging.INFO)
    confirm = serve_winner(Home(path=home), winner) if winner else None
    serve_forever(_embedded_settings(home, _profile(profile, home, base, embedding), data), host, port, confirm)


@adapters.command("import", epilog="Example: `asktwice adapters import someone/support-lora --name support`")
def import_(
    source: Annotated[str, typer.Argument(help="Repository on the Hugging Face hub, or a folder, with PEFT's files.")],
    name: Annotated[str, typer.Option("--name", help="The adapter is published as NAME.<digest>.")],
    mode: Annotated[
        list[Mode] | None, typer.Option("--mode", help="What it was trained for, ft by default; may be given twice.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch on the hub.")] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="It names another base: the same by another name.")
    ] = False,
    base: BaseOption = None,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
) -> None:
    """Bring a ready LoRA adapter in: checked, under an id of its own; a running generator picks it up."""
    from asktwice.adapters import import_adapter

    typer.echo(
        import_adapter(
            source, name, mode or [Mode.ft], revision, Home(path=home), _profile(profile, home, base), any_base
        )
    )


@adapters.command("list", epilog="Example: `asktwice adapters list --url http://127.0.0.1:8000`")
def list_(home: HomeOption = HOME, url: UrlOption = None) -> None:
    """The published adapters, newest first; with `--url` what a running server makes of them."""
    from asktwice.adapters import show_adapters, show_served

    show_served(url) if url else show_adapters(Home(path=home))


@adapters.command(epilog="Example: `asktwice adapters merge support.0123456789ab --out merged`")
def merge(
    id: Annotated[str, typer.Argument(help="A published adapter.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the model.")],
    base: BaseOption = None,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
) -> None:
    """Write an adapter and its base as one model, that needs neither PEFT nor AskTwice."""
    from asktwice.adapters import merge_adapter

    typer.echo(merge_adapter(Home(path=home), id, _profile(profile, home, base).base, out))


@adapters.command(epilog="Example: `asktwice adapters push support.0123456789ab me/support-lora --private`")
def push(
    id: Annotated[str, typer.Argument(help="A published adapter or fully fine-tuned model.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private/--public", help="For a repository that is made.")] = True,
    home: HomeOption = HOME,
) -> None:
    """Upload to the Hugging Face hub, with its card and its manifest; `HF_TOKEN` says who you are."""
    from asktwice.adapters import push_published

    typer.echo(push_published(Home(path=home), id, repository, private))


@data_files.command(epilog="Example: `asktwice data check my.csv --test questions.csv --method raft`")
def check(
    file: Annotated[
        str, typer.Argument(help="CSV, JSONL (messages, alpaca, sharegpt), Parquet, or hf:OWNER/NAME[/CONFIG].")
    ],
    test: Annotated[
        str | None, typer.Option("--test", help="File that is meant to measure: which of its questions are known?")
    ] = None,
    method: MethodOption = None,
    recipe: RecipeOption = None,
    base: BaseOption = None,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look for what spoils a training: contradictions, answers without support, broken cells, leaks into the test.

    Base and recipe are those that `asktwice train` takes with the same options.
    """
    from asktwice.checking import check_file
    from asktwice.training import recipe_for

    picked = _profile(profile, home, base)
    chosen = recipe_for(picked, method.value if method else None, recipe)
    if check_file(file, test, picked.base, chosen, as_json) == "error":
        raise typer.Exit(1)


@bench.command(epilog="Example: `asktwice bench generator --shape qwen2.5-0.5b --json`")
def generator(
    shape: Annotated[str, typer.Option("--shape", help="qwen2.5-0.5b, qwen2.5-1.5b or tiny.")] = "qwen2.5-0.5b",
    clients: Annotated[
        int | None, typer.Option("--clients", min=1, help="How many ask at once. Default: 8, GPU 32.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds; the median is told.")] = 5,
    requests: Annotated[
        int | None, typer.Option("--requests", min=2, help="Requests a round. Default: 3 a client.")
    ] = None,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=4, help="Tokens of the longest answers.")] = 24,
    seed: Annotated[int, typer.Option("--seed")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """The generator beside a lock with `generate`, PEFT's mixed batches, and the base alone; random weights."""
    from asktwice.benching import bench_generator

    bench_generator(shape, clients, rounds, requests, new_tokens, seed, as_json)


@bench.command(epilog="Example: `asktwice bench trainer --json`, `asktwice bench trainer --classic`")
def trainer(
    classic: Annotated[
        bool, typer.Option("--classic", help="A published notebook's table instead: full, LoRA, QLoRA.")
    ] = False,
    data: Annotated[Path, typer.Option("--data", help="CSV, JSONL or Parquet with short answers.")] = SAMPLE_DATA,
    base: Annotated[str | None, typer.Option("--base", help="Model. Default: the bundled one.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="qwen2.5-0.5b or qwen2.5-1.5b: random weights. Default on a GPU.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Optimizer steps, of 16 rows each.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds; the median is told.")] = 3,
    max_length: Annotated[int, typer.Option("--max-length", min=64, help="Tokens that the classic way pads to.")] = 512,
    rows: Annotated[int | None, typer.Option("--rows", min=40, help="With --classic: how many rows to draw.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """The trainer beside the classic notebook settings, on the same rows, weights and steps."""
    from asktwice.benching import bench_classic, bench_trainer

    if classic:
        bench_classic(base, rows, seed, as_json)
    else:
        bench_trainer(data, base, shape, steps, rounds, max_length, seed, as_json)


@bench.command(epilog="Example: `asktwice bench retriever --quality my.csv --embedding minilm --json`")
def retriever(
    quality: Annotated[
        Path | None,
        typer.Option("--quality", help="CSV with question and context: how often a row's own context is found."),
    ] = None,
    data: Annotated[
        Path, typer.Option("--data", help="CSV with question and context whose indexing is timed.")
    ] = SAMPLE_DATA,
    full: Annotated[bool, typer.Option("--full", help="Grow the index to a million passages: about an hour.")] = False,
    embedding: Annotated[
        str | None,
        typer.Option(
            "--embedding", help="sentence-transformers id or folder, or minilm. Default: the built-in hashed n-grams."
        ),
    ] = None,
    reranker: Annotated[
        str | None, typer.Option("--reranker", help="Cross-encoder's id or folder. Default: none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Speed beside the classic loop and local mode; with --quality, how often the right passage is found."""
    from asktwice.benching import bench_retriever, bench_retriever_speed

    if quality:
        bench_retriever(quality, embedding, reranker, as_json)
    else:
        bench_retriever_speed(data, embedding, full, as_json)


@bench.command("verdict", epilog="Example: `asktwice bench verdict --json`")
def bench_of_the_verdict(
    runs: Annotated[
        int, typer.Option("--runs", min=20, help="Of each world; five times as many for intervals.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """How often the verdict is wrong, in simulated worlds whose truth is known: about five minutes."""
    from asktwice.benching import bench_verdict

    bench_verdict(runs, seed, as_json)


@cli.command(epilog="Example: `asktwice verdict items.csv --json`")
def verdict(
    items: Annotated[Path, typer.Argument(help="CSV: item,cluster,arm,score, one row an answer, scores 0 to 1.")],
    margin: Annotated[float, typer.Option("--margin", help="Differences up to this do not matter.")] = 0.05,
    allowance: Annotated[
        float,
        typer.Option("--allowance", min=0, max=0.49, help="How much a judge that gave the scores may favour an arm."),
    ] = 0.0,
    lang: Annotated[Language, typer.Option("--lang", help="Of the words.")] = Language.ru,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Say who is better, from scores of any origin, as the evaluator would."""
    from asktwice import judging
    from contracts.verdict import VerdictSettings

    if not 0 < margin < 0.5:
        raise InvalidInput("--margin: a share above 0 and below 0.5, such as 0.05 for five percentage points.")
    found = judging.verdict_of(items, VerdictSettings(margin=margin, bias_allowance=allowance))
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        judging.show(found, lang.value)


@bench.command(epilog="Example: `asktwice bench evaluator --json`")
def evaluator(
    data: Annotated[Path, typer.Option("--data", help="CSV with the column answer.")] = SAMPLE_DATA,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Encoder's id or folder. Default: random weights of MiniLM's shape.")
    ] = None,
    layer: Annotated[int | None, typer.Option("--layer", min=1, help="Its layer, where none is known for it.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds; the median is told.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Asking and grading at once beside one after the other; BERTScore beside `bert_score.score` for each item, and
    for each mode."""
    from asktwice.benching import bench_evaluator

    bench_evaluator(data, encoder, layer, rounds, as_json)


@bench.command(epilog="Example: `asktwice bench metrics --data my.csv`")
def metrics(
    data: Annotated[Path, typer.Option("--data", help="CSV with question, answer and context.")] = SAMPLE_DATA,
    seed: Annotated[int, typer.Option("--seed", help="Of what is swapped by what.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """How often answers made from your rows, right and wrong, get the grade that they should have."""
    from asktwice.benching import bench_metrics

    bench_metrics(data, seed, as_json)


@cli.command(epilog="Example: `asktwice index docs.csv handbook.pdf notes/`, `asktwice index --remove handbook.pdf`")
def index(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files and folders: CSV, XLSX, JSON, Parquet with a column context; text, Markdown, HTML, DOCX, PDF."
        ),
    ] = None,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    embedding: EmbeddingOption = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Of text files, such as cp1251. Default: found out, or asked.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="Take the document of this name out; may be repeated.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print what is indexed.")] = False,
    reindex: Annotated[
        bool, typer.Option("--reindex", help="Build the index again with another --embedding, of what it holds.")
    ] = False,
    url: UrlOption = None,
) -> None:
    """Add documents to the index; one of the same name is replaced."""
    from asktwice import indexing

    if sum(map(bool, (paths, remove, listed, reindex))) != 1:
        raise InvalidInput("Give files to index, or --remove NAME, or --list, or --reindex.")
    if url and reindex:
        raise InvalidInput(
            "A server has the embedding that it was started with. Stop it and give --home in place of --url, or start"
            " it with ASKTWICE_EMBEDDING and ASKTWICE_REINDEX=true."
        )
    if url:
        if paths:
            indexing.add_through(url, paths, encoding)
        elif remove:
            indexing.remove_through(url, remove)
        else:
            indexing.list_through(url)
        return
    own, chosen = Home(path=home), _profile(profile, home, embedding=embedding)
    if paths:
        indexing.add_to(own, chosen, paths, encoding)
    elif remove:
        indexing.remove_from(own, chosen, remove)
    elif reindex:
        indexing.build_again(own, chosen)
    else:
        indexing.list_of(own, chosen)


@cli.command(epilog="Example: `asktwice train --data my.csv --name support --method qlora`")
def train(
    data: Annotated[
        Path,
        typer.Option("--data", help="CSV, JSONL (messages, alpaca, sharegpt), Parquet, or hf:OWNER/NAME[/CONFIG]."),
    ],
    name: Annotated[str, typer.Option("--name", help="It is published as NAME.<digest>.")] = "tuned",
    method: MethodOption = None,
    recipe: RecipeOption = None,
    base: BaseOption = None,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    url: UrlOption = None,
    report_to: Annotated[
        Tracker, typer.Option("--report-to", help="Tell a tracker of the losses as well.")
    ] = Tracker.none,
    force: Annotated[bool, typer.Option("--force", help="Train even if the same is there.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell time, peak memory and cost, and do not train.")
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="With --estimate: of this machine, or of --card.", min=0)
    ] = None,
    card: Annotated[
        str | None, typer.Option("--card", help="With --estimate: t4, rtx4090, a100-40, a100, h100, h200, rtx6000.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --estimate: one JSON object.")] = False,
) -> None:
    """Fine-tune and publish; a running generator picks it up. `--url`: whose index raft searches."""
    from asktwice.training import estimate_training, recipe_for, train_adapter

    picked = _profile(profile, home, base)
    chosen = recipe_for(picked, method.value if method else None, recipe)
    if estimate:
        from trainer.estimate import render

        report = estimate_training(Home(path=home), picked, data, name, chosen, price_per_hour, card)
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False) if as_json else render(report))
        return
    result = train_adapter(Home(path=home), picked, data, name, chosen, force=force, report_to=report_to.value, url=url)
    typer.echo(result.manifest.id)


@cli.command(epilog='Example: `asktwice ask "Сколько стоит курс?" --mode rag`')
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    mode: Annotated[Mode, typer.Option("--mode", help="How to answer.")] = Mode.rag,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Adapter id. Default: the newest for the mode.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer object.")] = False,
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    url: UrlOption = None,
) -> None:
    """Ask one question and print the answer with its numbered sources."""
    from asktwice.asking import ask_once

    settings = None if url else _embedded_settings(home, _profile(profile, home))
    answer = ask_once(question, mode, adapter, url, settings)
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    typer.echo(answer.answer)
    for source in answer.sources:
        typer.echo(f"\n[{source.n}] {source.title}\n    {source.text}")


@cli.command(
    epilog="Example: `asktwice evaluate --questions my_questions.txt`, `asktwice evaluate --data my.csv --modes"
    " base,rag,ft`"
)
def evaluate(
    questions: Annotated[
        Path | None, typer.Option("--questions", help="One question a line. Default: the five.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="CSV with question, answer and maybe context, to be measured on. Of the file that an adapter was"
            " trained on only the rows that it never saw are asked.",
        ),
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(
            "--modes",
            help="What is compared, by commas: base, rag, ft, rag_ft, ft:ADAPTER; as controls oracle (the right"
            " context) and shuffled (another one). Default: rag,ft.",
        ),
    ] = None,
    measure: Annotated[
        int,
        typer.Option("--measure", min=0, max=5000, help="Held-out rows of the served data to measure on as well."),
    ] = 0,
    bertscore: Annotated[
        str | None, typer.Option("--bertscore", help="Measure BERTScore, too, with this encoder: hub id or folder.")
    ] = None,
    bertscore_layer: Annotated[
        int | None, typer.Option("--bertscore-layer", min=1, help="Its layer, where none is known for it.")
    ] = None,
    grade: Annotated[
        bool,
        typer.Option(
            "--grade",
            help="Have the judge (OPENAI_API_KEY) grade every answer that has a reference. It is examined first; its"
            " grades make the verdict only if it passes.",
        ),
    ] = False,
    probes: Annotated[
        bool,
        typer.Option(
            "--probes",
            help="Ask, beside the verdict, about changed facts, what nobody can know, with distracting passages, what"
            " was trained on, and general knowledge: some 200 more questions.",
        ),
    ] = False,
    lang: Annotated[Language, typer.Option("--lang", help="Of the measured part and the report.")] = Language.ru,
    out: Annotated[Path, typer.Option("--out", help="Where to put result.txt.")] = Path("result.txt"),
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    url: UrlOption = None,
) -> None:
    """Ask the questions in every mode, measure the answers, and write result.txt with the verdict."""
    from asktwice.asking import Wish, evaluate_once

    if questions and data:
        raise InvalidInput("Give --questions or --data, not both: --data asks the questions of its rows.")
    if url and bertscore:
        raise InvalidInput("A server measures BERTScore where it was started with ASKTWICE_BERTSCORE.")
    settings = None if url else _embedded_settings(home, _profile(profile, home))
    if settings:
        settings = settings.model_copy(update={"bertscore": bertscore, "bertscore_layer": bertscore_layer})
    evaluate_once(Wish(questions, data, modes, measure, lang.value, grade, probes), out, url, settings)


@cli.command(epilog="Example: `asktwice advise ev_20261123T224137Z_5a5021da --sources --changes-per-month 4`")
def advise(
    evaluation: Annotated[str, typer.Argument(help="A finished evaluation of this home.")],
    sources: Annotated[bool, typer.Option("--sources", help="Answers must show where they come from.")] = False,
    changes_per_month: Annotated[
        float, typer.Option("--changes-per-month", min=0, help="How often facts change.")
    ] = 0.0,
    automated: Annotated[bool, typer.Option("--automated", help="Training again runs by itself.")] = False,
    joins: Annotated[bool, typer.Option("--joins", help="Answers need data from outside, or join many facts.")] = False,
    style: Annotated[bool, typer.Option("--style", help="Terms and tone of your own matter.")] = False,
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", min=1, help="What the slowest answers (95th percentile) may take."),
    ] = None,
    least_right: Annotated[
        float, typer.Option("--least-right", min=0, max=1, help="Mean score below which nothing is to be shipped.")
    ] = 0.5,
    questions_per_month: Annotated[
        int | None, typer.Option("--questions-per-month", min=1, help="With --price-hour, what costs less.")
    ] = None,
    price_hour: Annotated[float, typer.Option("--price-hour", min=0, help="Of the machine.")] = 0.0,
    lang: Annotated[Language, typer.Option("--lang", help="Of the words.")] = Language.ru,
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON.")] = False,
    home: HomeOption = HOME,
) -> None:
    """What to ship: RAG, fine-tuning, both or nothing yet; why, and what would change the advice."""
    from asktwice.judging import advice_on
    from contracts.advice import Circumstances
    from services.evaluator.advice import advice_lines

    told = Circumstances(
        sources=sources, changes_per_month=changes_per_month, automated=automated, joins=joins, style=style,
        max_latency_ms=max_latency_ms, least_right=least_right, questions_per_month=questions_per_month,
    )  # fmt: skip
    found = advice_on(Home(path=home), evaluation, told, price_hour, lang.value)
    typer.echo(found.model_dump_json() if as_json else "\n".join(advice_lines(found, lang.value)))


@cli.command(
    epilog="Example: `asktwice labels ev_20261123T224137Z_5a5021da`, then `asktwice labels ev_20261123T224137Z_5a5021da"
    " --labels labels.csv`"
)
def labels(
    evaluation: Annotated[str, typer.Argument(help="A finished evaluation of this home.")],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="The filled sheet, or a CSV with item, arm and label (1, 0.5 or 0; up to 100)."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to write the sheet that people fill.")] = Path("labels.csv"),
    arms: Annotated[str, typer.Option("--arms", help="Arms to label, by commas; all that were compared.")] = "",
    lang: Annotated[Language, typer.Option("--lang", help="Of the words.")] = Language.ru,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the labels say as JSON.")] = False,
    home: HomeOption = HOME,
) -> None:
    """Have people grade up to 100 answers blind; their labels check the scores and correct the verdict."""
    from asktwice import labelling

    if labels is None:
        count = labelling.write_sheet(
            Home(path=home), evaluation, out, [arm.strip() for arm in arms.split(",") if arm.strip()]
        )
        typer.echo(f"{out}: {count} answers. Write 1, 0.5 or 0 into the column label, then add --labels {out}.")
        return
    found = labelling.labelled(Home(path=home), evaluation, labels)
    typer.echo(found.model_dump_json() if as_json else "\n".join(labelling.lines_of(found, lang.value)))


@cli.command(epilog="Example: `asktwice doctor --json`")
def doctor(
    home: HomeOption = HOME,
    profile: ProfileOption = ProfileName.auto,
    port: Annotated[int, typer.Option("--port", help="The port you mean to serve on.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at the machine and the home, and say what is missing and how to mend it."""
    from asktwice.doctor import examine, show

    findings = examine(Home(path=home), choose(profile, Home(path=home)), port)
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], ensure_ascii=False, indent=2))
    else:
        show(findings)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def _profile(name: ProfileName, home: Path, base: str | None = None, embedding: str | None = None) -> Profile:
    """Choose the profile, apply what was given by hand, and say what runs and why."""
    from dataclasses import replace

    picked = choose(name, Home(path=home))
    if base:
        picked = replace(picked, base=base)
    if embedding:
        picked = replace(picked, embedding=embedding)
    console.say(
        f"Profile {picked.name} ({picked.why}): {picked.base}, embedding {picked.embedding or 'hashed n-grams'}",
        style="dim",
    )
    return picked


def _embedded_settings(home: Path, profile: Profile, data: Path | None = None) -> "EmbeddedSettings":
    from asktwice.embedded import EmbeddedSettings

    prepared = remembered(Home(path=home))
    return EmbeddedSettings(
        home=home,
        profile=profile.name,
        base=profile.base,
        embedding=profile.embedding,
        data=_data_to_serve(data, prepared),
        questions=FIVE_QUESTIONS,
    )


def _data_to_serve(given: Path | None, prepared: Prepared | None) -> Path | None:
    """A file that is named must be there; the one of the last demo may be gone, then what is indexed is served."""
    if given is not None and not given.is_file():
        raise InvalidInput(f"There is no file {given}.")
    remembered_file = prepared.data if prepared else None
    return given or (remembered_file if remembered_file and remembered_file.is_file() else None)


def main(run: Callable[[], None] = cli) -> None:
    """Run the command line; our errors become one line and exit code 1, Ctrl-C becomes 130."""
    share_cores()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # for its callers, not for ours
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        run()
    except AskTwiceError as error:
        console.say(f"error: {error.detail}", style="red")
        sys.exit(1)
    except ValidationError as error:  # of settings that came from the environment
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        console.say(f"error: a setting is wrong: {wrong}", style="red")
        sys.exit(1)
    except InvalidURL as error:
        console.say(f"error: --url: {error}", style="red")
        sys.exit(1)
    except (OSError, sqlite3.DatabaseError) as error:
        console.say(f"error: {error}", style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        console.say("Stopped.")
        sys.exit(130)
