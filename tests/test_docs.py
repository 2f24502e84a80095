"""What the guides show must run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from optuna.trial import FixedTrial
from pydantic import TypeAdapter

import search_spaces as spaces
from search_spaces import SpeedSpace
from stepsearch.config import parse
from stepsearch.diffusion.denoisers import DENOISERS
from stepsearch.diffusion.noise import VPConfig
from stepsearch.search.config import SearchConfig
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies import STRATEGIES, AnyStrategy
from stepsearch.strategies.adaptive.table import LearnedConfig
from trainers import trainer

ROOT = Path(__file__).parents[1]


def blocks(file: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


def test_the_readme_example_describes_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("README.md")
    assert len(example.splitlines()) <= 15
    launched: list[Any] = []

    class Stop(Exception):
        """Raised instead of launching: whole searches are run in tests/search."""

    def instead(config: Any) -> None:
        launched.append(config)
        raise Stop

    monkeypatch.setattr("stepsearch.search.driver.launch", instead)
    with pytest.raises(Stop):
        exec(compile(example, "README.md", "exec", dont_inherit=True), {})
    (config,) = launched
    assert isinstance(config.space, SpeedSpace)
    assert config.space.k == (1, 25)
    config.trainer.check(workers=1)


def test_the_page_on_stages_finds_some(capsys: pytest.CaptureFixture[str]) -> None:
    found, costs = blocks("docs/stages.md")
    exec(compile(found, "docs/stages.md", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out == "(0.226, 0.476, 0.726) (0.222, 0.523, 0.78)\n"
    exec(compile(costs, "docs/stages.md", "exec", dont_inherit=True), {})
    parameters, flops = capsys.readouterr().out.splitlines()
    assert f"{parameters}\n{flops}" in (ROOT / "docs/stages.md").read_text()


def test_the_searches_on_the_page_on_stages_can_be_run() -> None:
    page = (ROOT / "docs/stages.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        data = yaml.safe_load(example)
        config = trainer(**data.pop("trainer"))
        config.check(workers=2)
        spaces.space(data["space"]).check(config.facts())
        parse(SearchConfig, {**data, "trainer": config, "space": spaces.space(data["space"])})


def test_the_page_on_denoisers_counts_their_parameters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs/denoisers.md").read_text()
    (counts,) = blocks("docs/denoisers.md")
    exec(compile(counts, "docs/denoisers.md", "exec", dont_inherit=True), {})
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 15
    assert all(f"\n{row}" in page for row in rows)


def test_the_page_on_denoisers_names_all_kinds_and_fields() -> None:
    page = (ROOT / "docs/denoisers.md").read_text()
    assert all(f"`{kind}`" in page for kind in DENOISERS)
    for kind in ("unet", "dit", "pretrained"):
        (row,) = re.findall(rf"^\| `{kind}` \|.*$", page, flags=re.MULTILINE)
        fields = DENOISERS[kind].model_fields.keys() - {"kind", "preset"}
        assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == fields


@pytest.mark.parametrize("page", ["denoisers", "timetuner"])
def test_the_searches_on_a_page_are_read(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert examples
    for example in examples:
        data = yaml.safe_load(example)
        config = trainer(**data.pop("trainer"))
        parse(SearchConfig, {**data, "trainer": config, "space": spaces.space(data["space"])})


def test_the_guide_adds_a_weight() -> None:
    """methods/strategies.md section 5, trunc_snr = max(SNR, 1) on the x0-loss."""
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(blocks("docs/extend.md")[0], "docs/extend.md", "exec", dont_inherit=True), names)
    process = VPConfig().build()
    built = names["TruncatedSnrConfig"]().build(process.alpha_bar, "sample")
    np.testing.assert_allclose(built.w, np.maximum(process.snr, 1))
    assert np.ptp(built.p) == 0


def test_the_page_on_processes_carries_a_strategy_to_edm() -> None:
    (block,) = blocks("docs/processes.md")
    names: dict[str, Any] = {}
    exec(compile(block, "docs/processes.md", "exec", dont_inherit=True), names)
    assert names["p"].sum() == pytest.approx(1)
    assert names["p"].shape == names["w"].shape == (1000,)


def test_the_guide_adds_a_space_that_holds_the_baseline() -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(blocks("docs/extend.md")[3], "docs/extend.md", "exec", dont_inherit=True), names)
    facts = TrainerFacts("denoising", VPConfig().build().alpha_bar)
    space = names["BetaAndRateSpace"]()
    space.check(facts)
    points = space.fixed(facts)
    assert [point.label for point in points] == ["uniform", "B-TTDM"]
    for point in points:
        suggested = space.suggest(FixedTrial(dict(point.params)), facts)
        built = trainer(**suggested).strategy.build(facts.alpha_bar)
        assert (np.ptp(built.p) < 1e-12) == (point.label == "uniform")


def test_every_strategy_has_its_section() -> None:
    page = (ROOT / "docs/strategies.md").read_text()
    learned = (ROOT / "docs/adaptive.md").read_text()
    for kind, config in STRATEGIES.items():
        if issubclass(config, LearnedConfig):
            assert f"`{kind}`" in learned
        else:
            assert re.search(rf"^#+ .*`{kind}`", page, flags=re.MULTILINE), kind


def test_every_example_of_the_strategies_page_is_one() -> None:
    page = (ROOT / "docs/strategies.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) >= 6
    alpha_bar = VPConfig().build().alpha_bar
    for example in examples:
        for key, value in yaml.safe_load(example).items():
            if key == "space":
                spaces.space(value).check(TrainerFacts("denoising", alpha_bar))
            else:
                assert key == "strategy"
                TypeAdapter(AnyStrategy).validate_python(value).build(alpha_bar)
