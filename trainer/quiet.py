"""Keep the libraries' noise off the screen, and their telemetry off the network."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off the libraries' own progress bars and the messages that ask nothing of a user; the rest stays."""
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging as transformers_logging

    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL reports each training otherwise
    # bitsandbytes says that it misses a kernel for evaluation only, which the trainer does not use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # how it sorts checkpoints, each time
    bars = (datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled())
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The libraries' calls of each other's old names.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
            yield
    finally:
        if not bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()
