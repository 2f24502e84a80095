"""The errors of stepsearch: everything a user can mend is a UserError.

StepsearchError
├── UserError       a wrong input; the CLI prints its one line and exits with 2
├── Diverged        a loss or a metric is NaN or infinite; the trial ends as `diverged`
└── TrialStopped    raised inside `report` when the trial scheduler stops a trial
"""

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


class TrialStopped(StepsearchError):
    """The trial was asked to stop at its last report; unwinds the training loop."""
