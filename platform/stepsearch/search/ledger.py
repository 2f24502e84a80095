"""The ledger: what a search has spent until now, all its drivers together."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from stepsearch.config import Config
from stepsearch.errors import StepsearchError
from stepsearch.search.amounts import BUDGETS, Budget
from stepsearch.search.files import replace

Spent = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Lengths(Config):
    """How many trials of a kind have ended, and how long they were on their lanes."""

    count: int = 0
    seconds: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.seconds / self.count if self.count else None

    def plus(self, seconds: float) -> Lengths:
        return Lengths(count=self.count + 1, seconds=self.seconds + seconds)


class Ledger(Config):
    """The content of `spent.json`.

    The hours are those in which the search had a lane.
    """

    spent: dict[Budget, Spent] = Field(dict.fromkeys(BUDGETS, 0.0), min_length=len(BUDGETS))
    originals: Lengths = Lengths()
    """Of all trials but repeats, stopped early or not."""
    whole: Lengths = Lengths()
    """Of those that went to their end, repeats included."""
    running: dict[int, float] = Field({})
    """Trial: the seconds that it has been on a lane until now."""
    ended: str | None = None
    """Which budget ended the search, in one line."""

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """An empty one where there is no file. Raises StepsearchError if it is damaged."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise StepsearchError(f"{path} must be as a driver left it: {reason}") from None

    def write(self, path: Path) -> None:
        """All of it or nothing. A full disk is left to the records that follow: they say so."""
        with suppress(OSError):
            replace(path, self.model_dump_json())
