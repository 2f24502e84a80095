"""What a new search takes from an earlier one; the searches are filled in without training."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from search_spaces import space
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.search.agenda import Agenda
from stepsearch.search.beginning import beginning
from stepsearch.search.closing import show_report
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.search.leaderboard import leaderboard
from stepsearch.search.plan import _trials
from stepsearch.search.result import SearchResult
from stepsearch.search.summary import _numbers
from stepsearch.search.warm_start import Earlier
from stepsearch.strategies.carry import carry_time
from stepsearch.study import Study

Small = Callable[..., SearchConfig]
COSINE = {"noise": {"schedule": "cosine"}}


def fill(config: SearchConfig, outcomes: str = "", guards: str = "") -> SearchConfig:
    """A search that went through its whole budget: trial i scores 10 - i, or ends as said.

    p: pruned, the first trials' outcomes; x: beyond the guard `off_manifold`.
    """
    config = config.resolved()
    earlier = Earlier.of(config)
    data = config.trainer.facts().fingerprint
    folder = SearchFolder.create(config.folder, config, None, data)
    history = History(folder.history)
    names = tuple(config.guards or ())
    with Study.create(
        folder.study,
        config.name,
        config.objectives,
        config.optuna_sampler,
        config.seed,
        constraints=names,
    ) as study:
        agenda = Agenda(config, study, lambda: leaderboard([], history, config.primary, {}))
        agenda.enqueue_fixed_points(earlier)
        if earlier is not None:
            agenda.warm_start(earlier)
        for i in range(config.budget.trials):
            proposal = agenda.next()
            assert proposal is not None
            far = guards[i : i + 1] == "x"
            metrics = {config.primary.name: 10.0 - i, "off_manifold": 0.1 + far}
            history.add(proposal.number, config.budget.images, metrics)
            outcome: Any = "pruned" if outcomes[i : i + 1] == "p" else "finished"
            constraints = dict.fromkeys(names, float(far))
            study.tell(proposal.number, outcome, [10.0 - i], constraints=constraints)
    return config


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `first` makes its search once for all tests."""
    return tmp_path_factory.mktemp("kept") / "first"


@pytest.fixture
def first(small: Small, kept: Path) -> SearchConfig:
    """A search of six trials on the linear schedule; the later the better."""
    config = small(name="first", budget={"trials": 6}).resolved()
    if not kept.exists():
        shutil.copytree(fill(config).folder, kept)
    else:
        shutil.copytree(kept, config.folder)
    return config


@pytest.fixture
def second(small: Small) -> Callable[..., SearchConfig]:
    """Makes a search that begins from `first`."""

    def make(changes: dict[str, Any] | None = None, **more: Any) -> SearchConfig:
        return small(changes, **{"name": "second", "warm_start": "first", **more}).resolved()

    return make


Second = Callable[..., SearchConfig]


def found(config: SearchConfig) -> Earlier:
    earlier = Earlier.of(config)
    assert earlier is not None
    return earlier


def test_a_search_that_measures_alike_tells_optuna_its_trials(
    first: SearchConfig, second: Second
) -> None:
    config = second()
    earlier = found(config)
    assert str(earlier) == "Optuna is told 6 trials of first"
    assert earlier.told == set(range(6))
    assert [point.role for point in beginning(config, earlier)] == ["baseline", "paper"]
    filled = fill(config)
    with Study.open(filled.folder / "study.db", "second") as study:
        told = [record.attrs["source"] for record in study.warm_started()]
    assert told == [f"first/{i}" for i in range(6)]
    assert SearchResult.read(filled).ranks is None


def test_scores_on_other_images_of_the_same_place_are_not_told(
    first: SearchConfig, second: Second
) -> None:
    assert found(second()).told
    (first.folder / ".data").write_text("as it was before")
    assert not found(second()).told


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        (COSINE, {}),
        ({"training": {"lr": 0.001}}, {}),
        ({"denoiser": {"channels": [8, 24]}}, {}),
        (None, {"budget": {"images": 1280}}),
        (None, {"objectives": [{"name": "kid_digits"}]}),
        (None, {"guards": {"off_manifold": 0.1}}),
    ],
)
def test_scores_that_were_measured_otherwise_are_not_told(
    changes: Any, more: Any, first: SearchConfig, second: Second
) -> None:
    earlier = found(second(changes, **more))
    assert not earlier.told
    assert earlier.points


def test_on_another_schedule_the_best_points_are_tried_again_at_the_same_noise(
    first: SearchConfig, second: Second
) -> None:
    config = second(COSINE, budget={"trials": 8})
    earlier = found(config)
    assert [point.trial for point in earlier.points] == sorted(
        (point.trial for point in earlier.points), reverse=True
    ), "the best first"
    begins = beginning(config, earlier)
    assert [point.role for point in begins] == ["baseline", "paper"] + ["carried"] * 2
    assert begins[0].attrs == {"source": "first/0", "earlier": 10.0}
    assert begins[1].attrs == {}, "the paper's tau is another noise level here"
    records = {record.number: record for record in SearchResult.read(first).records}
    levels = (VPConfig(schedule=name).build().log_snr for name in ("linear", "cosine"))
    linear, cosine = levels
    for point in begins[2:]:
        record = records[int(point.attrs["source"].removeprefix("first/"))]
        tau = carry_time(record.params["tau"], linear, cosine)
        assert point.params == {**record.params, "tau": tau}
        assert point.label == point.attrs["source"]


def test_what_leaves_the_ranges_is_left_out(first: SearchConfig, second: Second) -> None:
    config = second(COSINE)
    wide, narrow = (
        found(config.model_copy(update={"space": space({"kind": "speed", "tau": [low, 1]})}))
        for low in (0.1, 0.93)
    )
    assert {p.trial for p in narrow.points} < {p.trial for p in wide.points}
    assert all(point.params["tau"] >= 0.93 for point in narrow.points)


def test_a_fixed_point_of_both_searches_is_one_trial(first: SearchConfig, second: Second) -> None:
    config = second({"training": {"lr": 0.001}}, budget={"trials": 20})
    begins = beginning(config, found(config))
    assert [point.attrs.get("source") for point in begins] == [
        f"first/{i}" for i in (0, 1, 5, 4, 3, 2)
    ]
    assert len({tuple(point.params.items()) for point in begins}) == len(begins)


def test_pruned_trials_and_those_beyond_the_guards_are_not_tried_again(small: Small) -> None:
    guards = {"off_manifold": 0.02}
    fill(small(name="old", budget={"trials": 6}, guards=guards), "---p--", "-----x")
    config = small(COSINE, name="new", warm_start="old", guards=guards).resolved()
    tried = {point.trial for point in found(config).points}
    assert tried
    assert not tried & {3, 5}


def test_the_baseline_of_a_family_is_found_again(small: Small) -> None:
    """Its begin, which matters nothing there, leaves the range on the cosine schedule."""
    bias = space("timestep_bias")
    fill(small(name="old", budget={"trials": 12}).model_copy(update={"space": bias}))
    config = small(COSINE, name="new", warm_start="old").model_copy(update={"space": bias})
    baseline = beginning(config.resolved(), found(config.resolved()))[0]
    assert baseline.attrs["source"] == "old/0"


def test_how_well_the_ranks_hold_is_reported(first: SearchConfig, second: Second) -> None:
    """In the new search the baseline is the worst again, and the best of the others too."""
    config = fill(second(COSINE, budget={"trials": 8}))
    result = SearchResult.read(config)
    assert result.ranks is not None
    assert result.ranks.pairs == 3
    assert result.ranks.correlation == pytest.approx(0.5)  # 10, 4 and 5 there; 10, 8 and 7 here
    numbers = _numbers(result, 1.0)
    assert (numbers["rank_pairs"], numbers["rank_correlation"]) == (3, pytest.approx(0.5))
    frame = result.leaderboard.frame().set_index("trial")
    assert frame["earlier"].dropna().sort_index().index.tolist() == [0, 2, 3]
    page = io.StringIO()
    show_report(result, Console(file=page, width=200))
    line = (
        "Warm start from first: 3 of its points have scores here too, and the ranks correlate by"
    )
    assert f"{line} 0.50 (Spearman)." in page.getvalue()


def test_the_plan_shows_which_points_are_tried_again(first: SearchConfig, second: Second) -> None:
    config, page = second(COSINE, budget={"trials": 8}), io.StringIO()
    Console(file=page, width=120).print(_trials(config, beginning(config, found(config)), ""))
    lines = [line.split() for line in page.getvalue().splitlines()]
    assert ["3", "first/4"] in [words[:2] for words in lines]
    assert ["4-7", "4", "proposals"] in [words[:3] for words in lines]


def test_the_budget_knows_that_a_carried_point_goes_to_its_end(
    first: SearchConfig, second: Second
) -> None:
    config, asked = second(COSINE, budget={"trials": 6}), []

    class Purse:
        """Has enough for everything."""

        def lacks(self, role: str | None, early: int, late: int) -> None:
            asked.append(role)

    with Study.create(None, "second", config.objectives, config.optuna_sampler, 0) as study:
        board = leaderboard([], History(), config.primary, {})
        agenda = Agenda(config, study, lambda: board, Purse())
        agenda.enqueue_fixed_points(found(config))
        for _ in range(6):
            agenda.next()
    assert asked == ["paper", "paper", "carried", "carried", "proposal", "proposal"]


def edit(config: SearchConfig, **changes: Any) -> None:
    """Change the recorded configuration of a search."""
    file = config.folder / "search.yaml"
    data = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("min_snr", "besides its baseline, that are points of space min_snr, got 'first' of "),
        (
            "compose",
            "that are points of space compose, got 'first' of space speed: none of 6 fini",
        ),
        ({"kind": "speed", "mirror": True}, "of space speed: none of 6 finished ones is"),
        ({"kind": "speed", "tau": [0.9999, 1]}, "that are points of space speed, got 'first'"),
    ],
)
def test_a_search_over_something_else_is_refused(
    kind: Any, line: str, first: SearchConfig, second: Second
) -> None:
    config = second().model_copy(update={"space": space(kind)})
    with pytest.raises(UserError) as caught:
        Earlier.of(config)
    assert str(caught.value).startswith("warm_start must be a search with finished trials,")
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"trainer": {"kind": "sampling"}},
            "warm_start must be a search with trainer denoising, got 'first' with sampling",
        ),
        (
            {"trainer": None},
            "warm_start must be a search with trainer denoising, got 'first' with none",
        ),
        (
            {"trainer": {"kind": "denoising"}},
            "trainer.noise must be in the search.yaml of 'first', got nothing",
        ),
        (
            {"trainer": {"kind": "denoising", "noise": {"timesteps": 3}}},
            "first.trainer.noise.timesteps must be at least 50, got 3",
        ),
        (
            {"objectives": [{"name": "recall", "direction": "maximize"}]},
            "warm_start must be a search that minimizes its first objective, "
            "got 'first', which maximizes recall",
        ),
    ],
)
def test_an_unfit_search_is_refused_in_one_line(
    changes: dict[str, Any], line: str, first: SearchConfig, second: Second
) -> None:
    edit(first, **changes)
    with pytest.raises(UserError) as caught:
        Earlier.of(second())
    assert str(caught.value).startswith(line)


def test_a_search_with_nothing_but_its_baseline_is_refused(small: Small) -> None:
    fill(small(name="old", budget={"trials": 3}), "-pp")
    with pytest.raises(UserError, match="of space speed: none of 1 finished ones is"):
        Earlier.of(small(name="new", warm_start="old").resolved())


def test_without_a_warm_start_there_is_nothing_earlier(small: Small) -> None:
    assert Earlier.of(small()) is None
