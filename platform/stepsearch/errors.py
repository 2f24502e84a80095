"""The errors of stepsearch: everything a user can mend is a UserError.

StepsearchError
├── UserError       a wrong input; the CLI prints its one line and exits with 2
├── Diverged        a loss or a metric is NaN or infinite; the trial ends as `diverged`
└── OutOfMemory     a step did not fit into the memory; it is tried in smaller slices, or fails
"""

from __future__ import annotations

import errno

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_LONGEST = 1500


class StepsearchError(Exception):
    """Base class of all errors that stepsearch raises on purpose."""


class UserError(StepsearchError, ValueError):
    """A wrong input: one line with the rule, the value and the choices."""

    def __init__(self, line: str) -> None:
        shown = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown))


class Diverged(StepsearchError):
    """A loss or a metric became NaN or infinite."""


class OutOfMemory(StepsearchError):
    """A step did not fit into the memory of its device; `again`: a smaller slice of it may."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


def storage_is_full(error: BaseException) -> OSError | None:
    """The cause of an error, if it is a storage that takes no more: full, or read-only."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
