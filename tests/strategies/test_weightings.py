"""P2 and Min-SNR against sections 4 and 5 of the methods page, the baseline, and the table."""

import numpy as np
import pytest
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from pydantic import TypeAdapter

from stepsearch.errors import UserError
from stepsearch.strategies import STRATEGIES, AnyStrategy, strategy

STEPS = [0, 1, 10, 100, 200, 300, 400, 500, 700, 999]

# fmt: off
# section 4: gamma, w at STEPS (linear, k = 1)
P2 = {
    1: [1e-4, 2.199079e-4, 2.193427e-3, 0.1048584, 0.3436530,
        0.6059889, 0.8064280, 0.9222033, 0.9931317, 0.9999596],
    0.5: [0.01, 0.01482929, 0.04683404, 0.3238185, 0.5862192,
          0.7784529, 0.8980134, 0.9603142, 0.9965599, 0.9999798],
}
# section 5: schedule and prediction type, w at STEPS for gamma = 5
MIN_SNR = {
    ("linear", "epsilon"): [
        5.0005e-4, 1.099782e-3, 0.01099125, 0.5857084, 1, 1, 1, 1, 1, 1],
    ("linear", "v_prediction"): [
        5e-4, 1.09954e-3, 0.01096714, 0.524292, 0.656347,
        0.3940111, 0.193572, 0.07779665, 6.868279e-3, 4.03583e-5],
    ("linear", "sample"): [
        5, 5, 5, 5, 1.909912, 0.6501953, 0.2400363, 0.08435954, 6.915778e-3, 4.035993e-5],
    ("cosine", "epsilon"): [
        2.064296e-4, 4.371585e-4, 3.608083e-3, 0.1462795, 0.5693992, 1, 1, 1, 1, 1],
    ("cosine", "v_prediction"): [
        2.064211e-4, 4.371203e-4, 3.605481e-3, 0.1421216, 0.5111855,
        0.7856324, 0.6459881, 0.4922852, 0.2018689, 2.428767e-9],
    ("scaled_linear", "epsilon"): [
        4.253724e-3, 8.534431e-3, 0.04830568, 0.5914454, 1, 1, 1, 1, 1, 1],
    ("scaled_linear", "v_prediction"): [
        4.250109e-3, 8.519888e-3, 0.04784346, 0.5288842, 0.7536918,
        0.5905008, 0.4244828, 0.2763325, 0.08252083, 4.660094e-3],
}
# fmt: on


@pytest.mark.parametrize("gamma", P2)
def test_p2_matches_table_4(gamma, alpha_bar):
    w = strategy("p2", gamma=gamma).weight(alpha_bar(), "epsilon")
    np.testing.assert_allclose(w[STEPS], P2[gamma], rtol=2e-6)


def test_p2_of_gamma_1_and_k_1_is_the_noise_variance(alpha_bar):  # section 4
    w = strategy("p2", gamma=1, k=1).weight(alpha_bar("cosine"), "epsilon")
    np.testing.assert_allclose(w, 1 - alpha_bar("cosine"), rtol=1e-12)


def test_p2_of_gamma_0_is_no_weighting_at_all(alpha_bar):  # section 0, fact 10
    w = strategy("p2", gamma=0).weight(alpha_bar(), "epsilon")
    np.testing.assert_array_equal(w, np.ones(1000))


def test_p2_is_converted_to_other_targets_by_section_1(alpha_bar):
    abar = alpha_bar()
    snr = abar / (1 - abar)
    config = strategy("p2", gamma=1, k=1)
    np.testing.assert_allclose(config.weight(abar, "v_prediction"), snr / (1 + snr) ** 2)
    np.testing.assert_allclose(config.weight(abar, "sample"), abar)


@pytest.mark.parametrize(("schedule", "prediction_type"), MIN_SNR)
def test_min_snr_matches_table_5(schedule, prediction_type, alpha_bar):
    w = strategy("min_snr", gamma=5).weight(alpha_bar(schedule), prediction_type)
    # the Stable Diffusion rows were computed by diffusers in float32 (section 1: rtol 5e-4)
    rtol = 5e-4 if schedule == "scaled_linear" else 2e-6
    np.testing.assert_allclose(w[STEPS], MIN_SNR[schedule, prediction_type], rtol=rtol)


def test_min_snr_matches_the_formula_of_diffusers_training_script(alpha_bar):
    snr = compute_snr(DDPMScheduler(1000), np.arange(1000)).numpy()
    expected = np.minimum(snr, 3) / (snr + 1)
    w = strategy("min_snr", gamma=3).weight(alpha_bar(), "v_prediction")
    np.testing.assert_allclose(w, expected, rtol=5e-4)


def test_min_snr_is_the_same_weight_on_the_x0_scale_for_every_target(alpha_bar):  # section 5
    abar, config = alpha_bar("quad"), strategy("min_snr", gamma=2)
    snr = abar / (1 - abar)
    on_x0 = config.weight(abar, "sample")
    np.testing.assert_allclose(config.weight(abar, "epsilon") * snr, on_x0)
    np.testing.assert_allclose(config.weight(abar, "v_prediction") * (snr + 1), on_x0)


def test_min_snr_is_safe_at_zero_terminal_snr(alpha_bar):  # section 5, trap b
    abar = alpha_bar().copy()
    abar[-1] = 0
    built = {kind: strategy("min_snr").build(abar, kind) for kind in ("epsilon", "sample")}
    assert built["epsilon"].w[-1] == 1
    assert built["sample"].w[-1] == 0
    assert strategy("min_snr").build(abar, "v_prediction").w[-1] == 0


def test_min_snr_above_the_highest_snr_is_no_weighting_at_all(alpha_bar):
    w = strategy("min_snr", gamma=10_000).weight(alpha_bar(), "epsilon")
    np.testing.assert_array_equal(w, np.ones(1000))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_baseline_neither_prefers_nor_weighs(prediction_type, alpha_bar):  # section 2
    built = strategy("uniform").build(alpha_bar(), prediction_type)
    np.testing.assert_array_equal(built.w, np.ones(1000))
    np.testing.assert_allclose(built.p, 1e-3, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("p2", {"gamma": -0.1}, "p2.gamma must be at least 0, got -0.1"),
        ("p2", {"gamma": float("nan")}, "p2.gamma must be a finite number, got nan"),
        ("p2", {"k": 0}, "p2.k must be greater than 0, got 0"),
        ("p2", {"k": "a"}, "p2.k must be a number, got 'a'"),
        ("p2", {"tau": 3}, "p2.tau is not a known key"),
        ("min_snr", {"gamma": 0}, "min_snr.gamma must be greater than 0, got 0"),
        ("min_snr", {"gamma": -5}, "min_snr.gamma must be greater than 0, got -5"),
        ("min_snr", {"gamma": float("inf")}, "min_snr.gamma must be a finite number, got inf"),
        ("min_snr", {"gamma": [5]}, "min_snr.gamma must be a number, got [5]"),
        ("uniform", {"stratify": "no way"}, "uniform.stratify must be true or false, got"),
        ("uniform", {"k": 1}, "uniform.k is not a known key (known keys: kind, stratify)"),
        ("sped", {}, "strategy must be one of uniform, speed, p2, min_snr, adaptive"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(kind, parameters, message):
    with pytest.raises(UserError) as error:
        strategy(kind, **parameters)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_config_names_its_kind_and_is_read_back_by_it(kind):
    config = strategy(kind, stratify=False)
    assert config.kind == kind
    assert TypeAdapter(AnyStrategy).validate_python(config.model_dump()) == config
