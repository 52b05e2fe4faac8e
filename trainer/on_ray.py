"""The same training as Ray Train's workers, for a cluster that Ray runs: one process a GPU, on any of its machines."""

import tempfile
from pathlib import Path
from typing import Any

from contracts.errors import InvalidInput
from trainer.settings import TrainerSettings


def train_on_ray(settings: TrainerSettings, workers: int, *, gpu: bool) -> str:
    """Train in several of Ray's workers; return the id of what was published.

    Every worker calls :func:`trainer.train.train`, as under ``torchrun``. The data, the base and the home must be
    reachable under the same paths on every machine; the first worker publishes.

    Args:
        workers: processes that share each batch.
        gpu: one GPU for each; otherwise CPUs.

    Raises:
        InvalidInput: Ray is not installed, or the training failed; says why.
    """
    try:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise InvalidInput('Ray is not installed here. Install it: .venv/bin/pip install "ray[train]"') from error
    absolute = settings.model_copy(
        update={
            "data": settings.data if str(settings.data).startswith("hf:") else settings.data.resolve(),
            "home": settings.home.resolve(),
            "base": str(Path(settings.base).resolve()) if Path(settings.base).is_dir() else settings.base,
            "recipe": str(Path(settings.recipe).resolve()) if Path(settings.recipe).is_file() else settings.recipe,
        }
    )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"settings": absolute.model_dump(mode="json")},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(storage_path=str(absolute.home / "ray")),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # Ray wraps what a worker raised in errors of its own
        cause = error.__cause__ or error
        raise InvalidInput(f"The training under Ray failed: {cause}") from error
    return str(result.metrics["id"])


def _work(config: dict[str, Any]) -> None:
    from ray import train as ray

    from trainer.raft import search_at
    from trainer.train import train

    settings = TrainerSettings(**config["settings"])
    result = train(settings, retrieve=search_at(settings.retriever_url) if settings.retriever_url else None)
    # Ray keeps what is reported only where a checkpoint comes along; ours are in the home.
    with tempfile.TemporaryDirectory() as empty:
        ray.report({"id": result.manifest.id}, checkpoint=ray.Checkpoint.from_directory(empty))
