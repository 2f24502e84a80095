"""strategy.json: that it holds what was trained, and that a damaged one is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stepsearch.diffusion.noise import FlowConfig
from stepsearch.errors import UserError
from stepsearch.sampling.bundle import load_strategy, write_bundle
from stepsearch.sampling.bundle.strategy_file import strategy_file
from stepsearch.strategies import (
    LossSecondMomentConfig,
    SpeedConfig,
    TableStrategy,
    UniformConfig,
    strategy,
)


@pytest.fixture
def content(folder):
    """strategy.json as plain data, to be damaged."""
    return json.loads((folder / "strategy.json").read_text())


def test_p_and_w_come_back_digit_for_digit(folder, bundle):
    p, w, _ = load_strategy(folder / "strategy.json")
    assert p.dtype == w.dtype == np.float64
    np.testing.assert_array_equal(p, bundle.strategy.p)
    np.testing.assert_array_equal(w, bundle.strategy.w)


def test_strategy_json_needs_no_reader_of_ours(content, bundle):
    assert content["family"] == "speed"
    assert content["parameters"]["tau"] == 500
    assert content["prediction_type"] == "epsilon"
    assert content["p"] == bundle.strategy.p.tolist()
    assert content["w"] == bundle.strategy.w.tolist()
    assert content["schedule"]["kind"] == "vp"
    assert content["schedule"]["name"] == "linear"
    assert content["schedule"]["alpha_bar"] == bundle.process.alpha_bar.tolist()
    assert content["schedule"]["diffusers"] == bundle.process.scheduler_config()
    assert content["training"] == bundle.training.model_dump(mode="json")
    assert content["provenance"] == bundle.provenance.model_dump(mode="json")


def test_the_parameters_build_the_same_strategy_again(folder, bundle):
    p, w, file = load_strategy(folder / "strategy.json")
    again = strategy(file.family, **file.parameters)
    rebuilt = again.build(np.array(file.schedule.alpha_bar), file.prediction_type)
    np.testing.assert_array_equal(rebuilt.p, p)
    np.testing.assert_array_equal(rebuilt.w, w)


def test_a_mirrored_strategy_is_exported_as_the_density_of_a_whole_batch(make_bundle, tmp_path):
    """Methods 1, mirror: the marginal depends on the batch size."""
    mirrored = SpeedConfig(tau=700, mirror=True)
    bundle = make_bundle(config=mirrored, training={"batch_size": 32})
    p, _, file = load_strategy(write_bundle(tmp_path / "b", bundle) / "strategy.json")
    np.testing.assert_array_equal(p, bundle.strategy.marginal(32))
    assert not np.allclose(p, bundle.strategy.p)
    assert "batch of 32" in file.note
    assert file.note in (tmp_path / "b" / "README.md").read_text()


def test_a_strategy_file_goes_to_edm_and_to_flow_and_back(make_bundle):
    """SpeeD of VP on EDM, from there on flow, and home: the densities' CDFs differ by no more than
    3 of VP's timesteps, and weights where both processes are finely divided by 2 %.
    """
    first = make_bundle(config=SpeedConfig(tau=600, k=4, lam=0.7))
    tour = [("edm", "edm"), ("flow", "flow"), ("vp", "epsilon")]
    file, process = _file(first, first.strategy), first.process
    p, w = np.array(file.p), np.array(file.w)
    for kind, target in tour:
        bundle = make_bundle(
            noise={"kind": kind},
            training={"prediction_type": target},
            config=UniformConfig(),
        )
        p, w = file.on(bundle.process, target)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        file = _file(bundle, TableStrategy(p, w))
    inside = np.flatnonzero(np.abs(process.log_snr) < 6)
    before, after = np.cumsum(first.strategy.p), np.cumsum(p)
    assert np.all(after[inside] <= before[inside + 3] + 1e-12)
    assert np.all(after[inside] >= before[inside - 3] - 1e-12)
    inside = np.flatnonzero(np.abs(process.log_snr) < 5)
    np.testing.assert_allclose(w[inside], first.strategy.w[inside], rtol=0.02)


def test_a_strategy_file_is_not_carried_to_a_target_that_cannot_be_trained(make_bundle):
    bundle = make_bundle()
    with pytest.raises(UserError, match="must be flow on noise"):
        _file(bundle, bundle.strategy).on(FlowConfig().build(), "epsilon")


def _file(bundle, strategy):
    return strategy_file(
        bundle.process, bundle.training, bundle.config, strategy, bundle.provenance
    )


def test_a_strategy_that_learns_is_exported_as_it_was_in_the_end(make_bundle, tmp_path):
    bundle = make_bundle(config=LossSecondMomentConfig(history=1))
    t = torch.arange(1000)
    bundle.strategy.observe(t, 1 + t / 1000)
    p, w, file = load_strategy(write_bundle(tmp_path / "b", bundle) / "strategy.json")
    np.testing.assert_array_equal(p, bundle.strategy.p)
    np.testing.assert_array_equal(w, bundle.strategy.w)
    assert p[999] > p[0]
    assert file.note == "p and w changed during the training; these are the last ones."
    assert file.note in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version must be one of 1, got 2"),
        ("family", 3, "family must be a string, got 3"),
        ("parameters", [], "parameters must be a mapping, got []"),
        ("note", 1, "note must be a string, got 1"),
        ("prediction_type", "noise", "prediction_type must be one of"),
        ("p", "x", "p must be a list, got 'x'"),
        ("p", [0.5, 0.5], "p must have T = 1000 numbers, got 2"),
        ("p", [-0.1] * 1000, "p[0] must be at least 0, got -0.1"),
        ("p", [0.002] * 1000, "p must sum to 1, got 2.0"),
        ("p", [float("nan")] * 1000, "p[0] must be a finite number, got nan"),
        ("w", [1.0] * 999, "w must have T = 1000 numbers, got 999"),
        ("w", [-1.0] * 1000, "w[0] must be at least 0, got -1.0"),
        ("schedule", "linear", "schedule must be a mapping, got 'linear'"),
        ("schedule.kind", "ve", "schedule.kind must be one of 'vp', 'edm' or 'flow', got 've'"),
        ("schedule.name", None, "schedule.name must be a string, got None"),
        ("schedule.timesteps", 999, "p must have T = 999 numbers, got 1000"),
        ("schedule.alpha_bar", [0.5], "schedule.alpha_bar must have T = 1000 numbers, got 1"),
        ("schedule.alpha_bar", [1.0], "schedule.alpha_bar[0] must be less than 1, got 1.0"),
        ("schedule.diffusers", 1, "schedule.diffusers must be a mapping, got 1"),
        (
            "training.batch_size",
            0,
            "training.batch_size must be at least 1, got 0",
        ),
        ("provenance.search", 1, "provenance.search must be a string, got 1"),
        ("provenance.trial", "a", "provenance.trial must be an integer, got 'a'"),
        ("provenance.seed", "a", "provenance.seed must be an integer, got 'a'"),
        ("provenance.images_seen", 0.5, "provenance.images_seen must be an integer, got 0.5"),
        ("provenance.objective", None, "provenance.objective must be a string, got None"),
        ("provenance.direction", "up", "provenance.direction must be one of"),
        ("provenance.metrics", {"fd": "x"}, "provenance.metrics.fd must be a number, got 'x'"),
        ("provenance.baseline", {"fd": "x"}, "provenance.baseline.fd must be a number, got 'x'"),
        ("provenance.values", ["x"], "provenance.values[0] must be a number, got 'x'"),
        ("provenance.baseline_values", 1, "provenance.baseline_values must be a list, got 1"),
        ("provenance.speed_up", 2, "provenance.speed_up must be a string, got 2"),
        ("provenance.git_commit", 2, "provenance.git_commit must be a string, got 2"),
        ("provenance.versions", {"torch": 2}, "provenance.versions.torch must be a string, got 2"),
        ("colour", "red", "colour is not a known key"),
    ],
)
def test_a_damaged_strategy_is_refused_on_one_line(key, value, message, content, tmp_path):
    *owners, last = key.split(".")
    inner = content
    for owner in owners:
        inner = inner[owner]
    inner[last] = value
    assert _refusal(tmp_path, json.dumps(content)).startswith(message)


@pytest.mark.parametrize("key", ["p", "w", "schedule", "training", "provenance"])
def test_a_strategy_without_one_of_its_parts_is_refused(key, content, tmp_path):
    del content[key]
    assert _refusal(tmp_path, json.dumps(content)) == f"{key} is required"


@pytest.mark.parametrize("text", ["", "{", '{"p": [1, 2', "p = 1", b"\xff\xfe\x00"])
def test_a_file_that_is_not_json_is_refused(text, tmp_path):
    assert _refusal(tmp_path, text).startswith("must be JSON: ")


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_a_file_that_is_not_there_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"^/[^\n]+: must be a readable file: [^\n]+$"):
        load_strategy(tmp_path / name)


def _refusal(folder: Path, text: str | bytes) -> str:
    """The one line that a strategy.json with this text is refused with, without its path."""
    path = folder / "strategy.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as refused:
        load_strategy(path)
    message = str(refused.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_strategy_that_changed_says_so(make_bundle, tmp_path):
    first = {"strategy": {"kind": "speed"}, "images": 64}
    phases = strategy("phase", phases=[first, {"strategy": {"kind": "uniform"}}])
    folder = write_bundle(tmp_path / "phased", make_bundle(config=phases))
    _, _, file = load_strategy(folder / "strategy.json")
    assert file.note == "p and w changed during the training; these are the last ones."
    assert file.note in (folder / "README.md").read_text()
    again = strategy(file.family, **file.parameters)
    assert again == phases
