"""Opens the MLflow experiment of a family of searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepsearch.errors import UserError
from stepsearch.tracking.tags import NOTE

# MLflow 3 opens on its workflow for language models, where the runs are hard to find.
DESCRIPTION = """\
Searches over timestep strategies (stepsearch). Not a list of runs? Switch to *Model training*
above the menu. A parent run is a search, and its page says how to compare its trials."""


def open_experiment(client: Any, name: str, artifact_root: Path | None) -> str:
    """The id of the experiment `name`, which is created if it does not exist yet.

    Raises UserError if the experiment was deleted.
    """
    found = client.get_experiment_by_name(name) or _create(client, name, artifact_root)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment must not be deleted, got {name!r}; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return str(found.experiment_id)


def _create(client: Any, name: str, artifact_root: Path | None) -> Any:
    from mlflow.exceptions import MlflowException

    location = str(artifact_root / name.replace("/", "-")) if artifact_root else None
    try:
        client.create_experiment(name, location, {NOTE: DESCRIPTION})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another search was faster
            raise
    return client.get_experiment_by_name(name)
