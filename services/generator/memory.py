"""What the generator has held at most, for whoever compares the cost of answers."""

from pathlib import Path


def peak_memory(device: str) -> int | None:
    """Return bytes: reserved on the GPU, else resident in this process; None where the model runs elsewhere or nobody
    can tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_reserved())
    if device != "cpu":
        return None
    try:  # the figure of getrusage is inherited from the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
