"""What a person sees: names, notes, links, and the command that opens the page."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from stepsearch.errors import UserError
from stepsearch.tracking import TrackingConfig, trial_name, ui_command
from stepsearch.tracking.tags import provenance, short
from stepsearch.tracking.views import Views

VIEWS = Views("7", "digits-1", "fd_digits", "minimize", ["tau"])


def test_a_trial_is_named_by_number_label_and_parameters() -> None:
    assert trial_name(0, "uniform") == "000 uniform"
    assert (
        trial_name(3, params={"tau": 612, "k": 4.123, "lam": 0.6312})
        == "003 tau=612 k=4.1 lam=0.63"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(612, "612"), (4.0, "4"), (0.6312, "0.63"), (1e-5, "1e-05"), (1500.4, "1500"), ("v", "v")],
)
def test_a_parameter_is_written_short(value: object, text: str) -> None:
    assert short(value) == text


def test_every_run_says_who_ran_which_code() -> None:
    tags = provenance()
    assert tags["mlflow.user"]
    assert "torch" in tags["versions"]
    assert "python" in tags["versions"]


def test_the_links_show_the_trials_best_first() -> None:
    query = parse_qs(VIEWS.charts.partition("?")[2])
    assert query["searchFilter"] == [VIEWS.filter]
    assert query["orderByKey"] == ["metrics.`fd_digits`"]
    assert query["orderByAsc"] == ["true"]
    state = json.loads(VIEWS.experiment_tags()["mlflow.sharedViewState.digits-1"])
    assert VIEWS.table.startswith("#/experiments/7/runs?")
    assert VIEWS.table.endswith("viewStateShareKey=digits-1")
    assert state["searchFilter"] == VIEWS.filter
    assert {"params.`tau`", "metrics.`fd_digits`"} <= set(state["selectedColumns"])


def test_the_note_explains_how_to_compare() -> None:
    note = VIEWS.note("digits")
    assert VIEWS.table in note
    assert VIEWS.filter in note
    assert "lower is better" in note


def test_the_page_is_served_from_the_storage_on_loopback(tmp_path: Path) -> None:
    command = ui_command(TrackingConfig(), tmp_path, port=5050)
    assert "MLFLOW_DISABLE_TELEMETRY=true" in command
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5050"


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("https://mlflow.example", {}, r"tracking\.uri is a server with its own page: open https"),
        (
            None,
            {"host": "0.0.0.0"},
            "host must be one of 127.0.0.1, localhost, ::1, got '0.0.0.0'",
        ),
        (None, {"port": 0}, r"port must be in 1\.\.65535, got 0"),
        (None, {"port": 65536}, r"port must be in 1\.\.65535, got 65536"),
    ],
)
def test_a_page_that_cannot_be_served_is_a_user_error(
    uri: str | None, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ui_command(TrackingConfig(uri=uri), tmp_path, **options)  # type: ignore[arg-type]
