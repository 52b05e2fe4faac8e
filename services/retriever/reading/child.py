"""Files that come with a parser of many thousand lines are read in a process of its own, with bounds on its memory and
time: what such a file can do to its reader, it does to that process."""

import os
import subprocess
import sys
import tempfile

from contracts.errors import InvalidInput
from services.retriever.reading.formats import Bounds, Extract, bounds_of


def extract(name: str, suffix: str, content: bytes) -> Extract:
    """Read a file in a child process.

    Args:
        name: what messages call it.
        suffix: its type, such as ``.pdf``.
        content: its bytes.

    Raises:
        InvalidInput: it cannot be read, or not within the bounds.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(content)
        given.seek(0)
        command = [sys.executable, "-m", "services.retriever.reading.formats", suffix]
        bounds = bounds_of(suffix)
        try:
            done = subprocess.run(
                command,
                stdin=given,
                stdout=printed,
                stderr=subprocess.PIPE,
                timeout=bounds.seconds,
                check=False,
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # none of the parent's keys
            )
        except subprocess.TimeoutExpired:
            raise InvalidInput(
                f"{name} could not be read within {bounds.seconds} s. Split it, or save it anew."
            ) from None
        if done.returncode != 0:
            raise InvalidInput(f"{name} cannot be read: {_why(done, bounds)}. Save it anew, or as another type.")
        printed.seek(0)
        found = Extract.model_validate_json(printed.read())
    if found.refused:
        raise InvalidInput(f"{name} {found.refused}")
    return found


def _why(done: "subprocess.CompletedProcess[bytes]", bounds: Bounds) -> str:
    last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
    if done.returncode < 0 or "MemoryError" in last:
        return f"it needs more than {bounds.memory / 1e9} GB of memory, {bounds.seconds} s, or what no reader gives it"
    return last[:200] or f"exit {done.returncode}"
