"""Records a search in MLflow; the only package of stepsearch that imports mlflow."""

from stepsearch.tracking.client import load
from stepsearch.tracking.config import TrackingConfig
from stepsearch.tracking.records import Outcome, Role, Run
from stepsearch.tracking.tags import trial_name
from stepsearch.tracking.tracker import Tracker
from stepsearch.tracking.ui import ui_command

__all__ = [
    "Outcome",
    "Role",
    "Run",
    "Tracker",
    "TrackingConfig",
    "load",
    "trial_name",
    "ui_command",
]
