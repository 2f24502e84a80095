"""Records a search in MLflow; the only package of stepsearch that imports mlflow."""

from stepsearch.tracking.client import load
from stepsearch.tracking.config import TrackingConfig
from stepsearch.tracking.held import HeldTrial, held_trials
from stepsearch.tracking.records import Outcome, Role, Run
from stepsearch.tracking.spool import count_waiting
from stepsearch.tracking.tags import trial_name
from stepsearch.tracking.tracker import Tracker
from stepsearch.tracking.ui import ui_command

__all__ = [
    "HeldTrial",
    "Outcome",
    "Role",
    "Run",
    "Tracker",
    "TrackingConfig",
    "count_waiting",
    "held_trials",
    "load",
    "trial_name",
    "ui_command",
]
