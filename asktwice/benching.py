"""``asktwice bench``: progress on stderr, the figures on stdout."""

import json
import logging

from asktwice import console
from contracts.errors import InvalidInput


def bench_generator(
    shape: str,
    clients: int | None,
    rounds: int,
    requests: int | None,
    new_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure the generator and print its figures.

    Raises:
        InvalidInput: there is no such shape.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install a package that loads code
    import torch

    from services.generator.bench import SHAPES, run

    if shape not in SHAPES:
        raise InvalidInput(f"--shape: there is no {shape}. Choose one of {', '.join(SHAPES)}.")
    clients = clients or (32 if torch.cuda.is_available() else 8)
    with console.step(f"{shape}: {rounds} rounds, {clients} clients") as advance:
        figures = run(
            shape,
            clients=clients,
            rounds=rounds,
            new_tokens=new_tokens,
            requests=requests or 3 * clients,
            seed=seed,
            report=advance,
        )
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<32} {value}")
