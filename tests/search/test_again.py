"""A search that is launched again under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepsearch.errors import UserError
from stepsearch.search.again import again, has_begun
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import resume
from stepsearch.search.folder import SearchFolder
from stepsearch.study import Study

Small = Callable[..., SearchConfig]


def test_it_goes_on_where_and_as_long_as_the_file_says(small: Small) -> None:
    recorded = small().resolved()
    assert again(small(), recorded) == recorded
    longer = again(small(cluster="auto", budget={"trials": 9}), recorded)
    assert longer == recorded.extended(9).model_copy(update={"cluster": "auto"})
    assert again(small(), longer).budget.trials == 9, "it was given more trials by `resume`"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 7}, "seed must stay 0 in search 'small', got 7"),
        ({"lanes": {"workers": 2}}, "lanes.workers must stay 1 in search 'small', got 2"),
        ({"guards": {"off_manifold": 1.5}}, "guards.off_manifold must stay None in search"),
        (
            {"trainer_changes": {"training": {"lr": 0.5}}},
            "trainer.training.lr must stay 0.004 in search 'small', got 0.5: "
            "a changed search needs a name of its own",
        ),
    ],
)
def test_another_search_under_its_name_is_refused(
    small: Small, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as caught:
        again(small(**changes), small().resolved())
    assert str(caught.value).startswith(line)


def test_a_launch_that_was_cut_short_is_cleared_away(small: Small) -> None:
    config = small()
    assert not has_begun(config)
    folder = SearchFolder.create(config.folder, config)
    folder.study.touch()
    with folder.locked(), pytest.raises(UserError, match="must not be running already"):
        has_begun(config)
    assert not has_begun(config)
    assert not config.folder.exists()


def test_trials_and_what_no_search_made_are_left_alone(small: Small) -> None:
    config = small()
    config.folder.mkdir()
    (config.folder / "thesis.tex").touch()
    assert not has_begun(config)
    assert (config.folder / "thesis.tex").exists()
    begun = small(name="begun")
    SearchFolder.create(begun.folder, begun).trial(0).mkdir(parents=True)
    assert has_begun(begun)
    assert begun.folder.exists()


def test_a_search_does_not_go_on_with_other_images(small: Small) -> None:
    config = small().resolved()
    folder = SearchFolder.create(config.folder, config, data="of the images that were there")
    made = Study.create(
        folder.study, config.name, config.objectives, config.optuna_sampler, config.seed
    )
    made.enqueue({"tau": 1.0, "k": 1.0, "lam": 0.5}, label="uniform", role="baseline")
    made.close()
    with pytest.raises(UserError) as caught:
        resume(config)
    assert str(caught.value) == (
        "trainer.dataset must be as it was when 'small' began, got other images, labels or another"
        " split: search it under a new name"
    )
