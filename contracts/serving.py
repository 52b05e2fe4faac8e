"""Which arm ``POST /ask?mode=auto`` answers with: the winner of an evaluation, found again through the live API."""

from pydantic import AwareDatetime, BaseModel, ValidationError

from contracts.artifacts import Home, write_atomically
from contracts.generation import AdapterId, Mode


class Winner(BaseModel):
    """Kept in ``home/winner.json``. ``same`` of ``replayed`` test questions got the measured answer again."""

    evaluation: str
    outcome: str
    arm: str
    mode: Mode
    adapter: AdapterId | None
    model: str
    replayed: int
    same: int
    confirmed: AwareDatetime


def keep_winner(home: Home, winner: Winner) -> None:
    """Let the generator of this home answer ``auto`` with it, from the next question on."""
    write_atomically(home.winner, winner.model_dump_json(indent=2).encode() + b"\n")


def kept_winner(home: Home) -> Winner | None:
    """Return the arm that ``auto`` means; None where none was confirmed, or the file cannot be read."""
    try:
        return Winner.model_validate_json(home.winner.read_bytes())
    except (OSError, ValidationError):
        return None
