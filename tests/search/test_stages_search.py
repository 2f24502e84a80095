"""A real search whose workers have a stage each, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch
from stepsearch.search.result import SearchResult

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

STAGES = {
    "kind": "multistage_unet",
    "decoders": [[12, 16], [8, 8]],
    "boundaries": [0.4],
    "stages_a_worker": "one",
}


def recorded(result: SearchResult, metric: str) -> dict[int, float]:
    """The only trial's curve in MLflow: images seen -> value."""
    config = result.config
    client = MlflowClient(config.tracking.store_uri(config.storage))
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = (
        run
        for run in client.search_runs(experiments)
        if run.data.tags.get("stepsearch.trial") == "0"
    )
    history = client.get_metric_history(run.info.run_id, metric)
    return {point.step: point.value for point in history}


def test_workers_with_a_stage_each_are_a_search_like_any_other(
    small: Callable[..., SearchConfig],
) -> None:
    """Algorithm 3; tests/diffusion/multistage compares what it trains."""
    trial = {"trials": 1, "images": 320, "reports": 2}
    result = launch(small({"denoiser": STAGES}, budget=trial, lanes={"count": 1, "workers": 2}))
    (record,) = result.records
    assert record.outcome == "finished"
    curves = [recorded(result, f"loss_stage_{k}") for k in (1, 2)]
    assert tuple(curves[0]) == tuple(curves[1]) == result.config.budget.milestones()
    assert curves == [result.history.curve(0, f"loss_stage_{k}") for k in (1, 2)]
    parts = {path.name for path in result.folder.trial(0).rglob("checkpoint*.pt")}
    last = {"checkpoint.pt", "checkpoint.stage1.pt"}
    assert parts == last | {"checkpoint.earlier.pt", "checkpoint.stage1.earlier.pt"}
