"""``python -m trainer``: train on a CSV and publish what comes out."""

import argparse
import json
import logging
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from contracts.errors import AskTwiceError
from trainer import ranks
from trainer.progress import console_progress
from trainer.raft import search_at
from trainer.settings import share_cores, trainer_settings

_EXAMPLE = """\
example:
  python -m trainer --data data/selected_qa_full.csv --name sales --base models/asktwice-tiny --recipe demo

What is not given is read from the environment: ASKTWICE_DATA, ASKTWICE_NAME, ASKTWICE_BASE, ASKTWICE_RECIPE,
ASKTWICE_HOME, ASKTWICE_REPORT_TO, ASKTWICE_RETRIEVER_URL, ASKTWICE_GPU_MEMORY_SHARE. An interrupted training goes on
when the same command is given again.

on several GPUs:
  torchrun --nproc-per-node 4 -m trainer --data my.csv --name sales --recipe lora"""


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 published or there already, 1 failed with a message, 130 interrupted."""
    share_cores()
    given = vars(_parser().parse_args(arguments))
    ray_workers, only_estimate = given.pop("ray_workers"), given.pop("estimate")
    price, card, as_json = given.pop("price_per_hour"), given.pop("card"), given.pop("json")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("asktwice").setLevel(logging.INFO if ranks.is_first() else logging.ERROR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container is stopped as by Ctrl-C
    try:
        settings = trainer_settings(**given)
        from trainer.train import train

        if only_estimate:
            from trainer.estimate import estimate, render

            report = estimate(settings, price, card)
            print(json.dumps(report.as_dict(), ensure_ascii=False) if as_json else render(report))
            return 0
        if ray_workers:
            from trainer.model import choose_placement
            from trainer.on_ray import train_on_ray
            from trainer.recipe import read_recipe

            placement = choose_placement(settings.device, read_recipe(settings.recipe))
            print(train_on_ray(settings, ray_workers, gpu=placement.device == "cuda"))
            return 0
        retrieve = search_at(settings.retriever_url) if settings.retriever_url else None
        with console_progress() if ranks.is_first() else nullcontext() as progress:
            result = train(settings, progress, retrieve)
    except AskTwiceError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}. Nothing was published; checkpoints are kept.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Nothing was published; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    if not ranks.is_first():
        return 0
    losses = result.manifest.losses
    dev = "" if losses.dev is None else f", dev {losses.dev:.3f}"
    print(f"{result.manifest.id}: loss {losses.train:.3f}{dev} at step {losses.best_step}", file=sys.stderr)
    print(result.folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train an adapter or a whole model on questions and answers, and publish it.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="CSV (question, answer, context), JSONL, Parquet, or hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]",
    )
    parser.add_argument("--name", help="published as NAME.<digest>")
    parser.add_argument("--base", help="hub id or folder of the base model (default: Qwen/Qwen2.5-1.5B-Instruct)")
    parser.add_argument("--recipe", help="qlora, lora, full, raft, demo or a JSON file (default: qlora)")
    parser.add_argument("--home", type=Path, help="where adapters and checkpoints live (default: artifacts)")
    parser.add_argument("--report-to", help="none, tensorboard, mlflow, wandb or trackio (default: none)")
    parser.add_argument("--retriever-url", help="a running retriever, for the recipe raft")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="where to train (default: auto)")
    parser.add_argument("--ray-workers", type=int, help="train in so many workers of Ray Train (needs ray[train])")
    parser.add_argument(
        "--force", action="store_true", default=None, help="train anew, from the start, even if it is there"
    )
    parser.add_argument("--estimate", action="store_true", help="tell time, memory and cost, and do not train")
    parser.add_argument("--price-per-hour", type=float, help="with --estimate: of this machine, or of --card")
    parser.add_argument("--card", help="with --estimate: the card of the table, such as t4, a100, h100")
    parser.add_argument("--json", action="store_true", help="with --estimate: one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
