"""What leaves, what does not, and where it does not fit."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import Diverged, UserError
from stepsearch.sampling.timetuner import (
    Network,
    SolverConfig,
    Tuned,
    Verdict,
    compare,
    draw,
    evaluate,
    gap_to,
    load_tuned,
    write_tuned,
)
from stepsearch.sampling.timetuner.tuned_timesteps import (
    attach,
    load,
    quiet,
    scheduler,
    tuned_scheduler,
)

NOISE = VPConfig().build().scheduler_config()
SHAPE = (1, 8, 8)
SAMPLER = SolverConfig(num_steps=4)
BETTER, WORSE = Verdict("gap", (1.0, 2.0), (2.0, 2.0)), Verdict("gap", (2.5,), (2.0,))


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return UNetConfig(channels=(8, 16)).build(SHAPE, seed=0).eval()


@pytest.fixture(scope="module")
def network(denoiser: Any) -> Network:
    return Network(evaluate(denoiser), SAMPLER.build(NOISE, "epsilon"))


def tuned(network: Network, tau: torch.Tensor | None = None) -> Tuned:
    times = network.solver.times
    losses = (1.0,) * len(times)
    return Tuned(times - 7.5 if tau is None else tau, times, losses, losses, (0,) * len(times))


@pytest.fixture
def folder(network: Network, denoiser: Any, tmp_path: Path) -> Path:
    return write_tuned(tmp_path / "tuned", network, denoiser, SAMPLER, tuned(network), BETTER)


def test_the_file_names_everything_that_tau_depends_on(folder: Path, network: Network) -> None:
    file = load_tuned(folder / "timetuner.json")
    assert file.tau == (991.5, 741.5, 491.5, 241.5)
    assert file.timesteps == (999, 749, 499, 249)
    assert (file.num_steps, file.nfe, file.tau_scope) == (4, 4, "embedding")
    assert (file.prediction_type, file.guidance_scale, file.sampler) == ("epsilon", None, SAMPLER)
    assert file.scheduler is not None
    assert file.scheduler.cls == "DDIMScheduler"
    assert file.scheduler.config["timestep_spacing"] == "trailing"
    assert file.verdict["tuned"] == [1.0, 2.0]
    assert file.denoiser["class"] == "UNet2DModel"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "timetuner.json",
        "tuned_timesteps.py",
    }
    assert (
        "better than untuned: gap 1.5 beside 2, mean of 2 seeds"
        in (folder / "README.md").read_text()
    )


def test_a_tau_that_did_worse_stays_unless_forced(
    network: Network, denoiser: Any, tmp_path: Path
) -> None:
    parts = (network, denoiser, SAMPLER, tuned(network), WORSE)
    message = (
        r"^tau must do no worse than untuned on held-out seeds, unless forced \(--force\): worse "
        r"than untuned: gap 2.5 beside 2, mean of 1 seeds$"
    )
    with pytest.raises(UserError, match=message):
        write_tuned(tmp_path / "tuned", *parts)
    assert list(tmp_path.iterdir()) == []
    forced = write_tuned(tmp_path / "tuned", *parts, force=True)
    assert load_tuned(forced / "timetuner.json").verdict["worse"] is True


ALONE = {
    "ddim": ("leading", "leading_1", "trailing"),
    "ddpm": ("leading", "leading_1", "trailing", "linspace"),
    "euler": ("leading",),
    "heun": ("leading",),
    "dpmpp_2m": ("trailing",),
    "unipc": ("trailing",),
}


@pytest.mark.parametrize("trajectory", ["leading", "leading_1", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ALONE)
def test_the_readme_says_where_no_pipeline_runs_the_timesteps_by_itself(
    kind: Any, trajectory: Any, denoiser: Any, tmp_path: Path
) -> None:
    sampler = SolverConfig(kind=kind, trajectory=trajectory, num_steps=5)
    under = Network(evaluate(denoiser), sampler.build(NOISE, "epsilon"))
    folder = write_tuned(tmp_path / "t", under, denoiser, sampler, tuned(under), BETTER)
    alone, text = trajectory in ALONE[kind], (folder / "README.md").read_text()
    assert ("No pipeline asks for these timesteps by itself" in text) != alone
    made = scheduler(load(folder / "timetuner.json"))
    with quiet():
        made.set_timesteps(5)
    assert (made.timesteps.tolist() == under.solver.times.tolist()) == alone


def test_a_score_that_is_no_number_is_worse() -> None:
    assert Verdict("fd", (float("nan"),), (3.0,)).worse


def test_the_verdict_is_on_the_images_of_other_seeds(network: Network, denoiser: Any) -> None:
    """Against a teacher of many steps; untuned it is compared with itself."""
    teacher = Network(evaluate(denoiser), SolverConfig(num_steps=10).build(NOISE, "epsilon"))
    gap = gap_to(teacher, SHAPE)
    verdict = compare("gap", gap, network, network.solver.times, [1, 2], 3, SHAPE)
    assert verdict.tuned == verdict.untuned
    assert not verdict.worse
    images = draw(network, network.solver.times, 3, shape=SHAPE, seed=1)
    assert verdict.tuned[0] == pytest.approx(gap(images, 1))
    far = compare("gap", gap, network, network.solver.times * 0.2, [1], 3, SHAPE)
    assert far.tuned != far.untuned


def test_nothing_is_drawn_or_compared_without_images_or_seeds(network: Network) -> None:
    times = network.solver.times
    with pytest.raises(UserError, match=r"^n must be at least 1 image, got 0$"):
        draw(network, times, 0, shape=SHAPE, seed=0)
    with pytest.raises(UserError, match=r"^seeds must be at least one to compare on, got none$"):
        compare("gap", lambda images, seed: 0.0, network, times, [], 3, SHAPE)


def test_images_that_are_not_finite_are_no_images(network: Network) -> None:
    broken = Network(lambda x, t, nominal: x / 0, network.solver)
    with pytest.raises(Diverged, match=r"^images drawn with this tau have NaN or inf"):
        draw(broken, network.solver.times, 1, shape=SHAPE, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tau_that_is_not_finite_is_not_written(
    value: float, network: Network, denoiser: Any, tmp_path: Path
) -> None:
    tau = network.solver.times.clone()
    tau[1] = value
    with pytest.raises(UserError, match=r"^tau must be finite, got \[999.0, "):
        write_tuned(tmp_path / "t", network, denoiser, SAMPLER, tuned(network, tau), BETTER)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(folder: Path, network: Network, denoiser: Any) -> None:
    with pytest.raises(UserError, match=r"^folder must not exist yet, got '.*/tuned'$"):
        write_tuned(folder, network, denoiser, SAMPLER, tuned(network), BETTER)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version must be one of 1, got 2"),
        ("tau", [1.0], "tau must have nfe = 4 numbers, got 1"),
        ("tau", [float("nan")] * 4, "tau[0] must be a finite number, got nan"),
        ("timesteps", "x", "timesteps must be a list, got 'x'"),
        ("tau_scope", "half", "tau_scope must be one of 'embedding' or 'full', got 'half'"),
        ("sampler", {"kind": "plms"}, "sampler.kind must be one of 'ddim', "),
        ("colour", "red", "colour is not a known key"),
    ],
)
def test_a_damaged_file_is_refused_on_one_line(
    key: str, value: Any, message: str, folder: Path
) -> None:
    path = folder / "timetuner.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError) as error:
        load_tuned(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "version must be 1, got None"),
        ({"version": 2}, "version must be 1, got 2"),
        ({"version": 1}, "tau must have nfe = None finite numbers"),
        ({"version": 1, "nfe": 1, "tau": ["a"]}, "tau must have nfe = 1 finite numbers"),
        ({"version": 1, "nfe": 1, "tau": [9], "timesteps": 9}, "timesteps must have nfe = 1 fin"),
    ],
)
def test_without_stepsearch_a_damaged_file_is_a_value_error(
    content: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
        load(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 9999])
def test_a_file_that_is_not_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t.json: must be JSON: "):
        load_tuned(tmp_path / "t.json")
    with pytest.raises(UserError, match=r"gone.json: must be a readable file: "):
        load_tuned(tmp_path / "gone.json")


def pipeline(denoiser: Any, **settings: Any) -> DDIMPipeline:
    made = DDIMPipeline(denoiser, DDIMScheduler(**NOISE, **settings))
    made.set_progress_bar_config(disable=True)
    return made


def test_other_weights_are_refused(folder: Path, denoiser: Any) -> None:
    schedule = load(folder / "timetuner.json")
    for other in (
        UNetConfig(channels=(8, 16)).build(SHAPE, seed=1),
        UNetConfig(channels=(8, 8)).build(SHAPE, seed=0),
    ):
        with pytest.raises(ValueError, match=r"^the schedule was tuned for other weights: UNet2D"):
            attach(other, schedule)
    attach(copy.deepcopy(denoiser).to(torch.bfloat16), schedule).remove()


def test_a_pipeline_that_runs_other_timesteps_is_refused(folder: Path, denoiser: Any) -> None:
    """Another spacing, or another number of steps."""
    handle = attach(denoiser, load(folder / "timetuner.json"))
    message = r"^the sampler must ask for the timesteps that were tuned for, \[999.0, .*, got "
    try:
        for settings, steps in (({}, 4), ({"timestep_spacing": "trailing"}, 5)):
            with pytest.raises(ValueError, match=message):
                pipeline(denoiser, **settings)(num_inference_steps=steps)
        # and begins anew after an interrupted run
        pipeline(denoiser, timestep_spacing="trailing")(num_inference_steps=4)
    finally:
        handle.remove()


@pytest.mark.parametrize("how", [float, int, torch.tensor, lambda t: torch.tensor([t, t])])
def test_the_network_is_told_a_float32_tensor_however_it_is_asked(
    how: Any, folder: Path, denoiser: Any
) -> None:
    """A Python float would be cast to an integer by UNet2DModel."""
    told: list[Any] = []
    handle = attach(denoiser, load(folder / "timetuner.json"))
    spy = denoiser.register_forward_pre_hook(lambda _, args: told.append(args[1]))
    try:
        with torch.no_grad():
            denoiser(torch.zeros(2, *SHAPE), how(999))
    finally:
        spy.remove()
        handle.remove()
    assert told[0].dtype == torch.float32
    assert set(told[0].flatten().tolist()) == {991.5}


def test_a_bf16_pipelines_rounded_timestep_is_recognised(folder: Path, denoiser: Any) -> None:
    handle = attach(denoiser, load(folder / "timetuner.json"), calls_per_step=2)
    try:
        with torch.no_grad():
            rounded = torch.tensor(999.0).bfloat16()
            assert float(rounded) == 1000
            outputs = [
                denoiser(torch.ones(1, *SHAPE), t).sample
                for t in (rounded, rounded, torch.tensor(749), torch.tensor(749))
            ]
    finally:
        handle.remove()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])
    assert not torch.equal(outputs[1], outputs[2])


def test_a_tuned_scheduler_runs_its_own_number_of_steps_only(folder: Path) -> None:
    made = tuned_scheduler(load(folder / "timetuner.json"))
    assert made.timesteps.tolist() == [991.5, 741.5, 491.5, 241.5]
    message = r"^num_inference_steps must be 4, which was tuned for, got 10$"
    with pytest.raises(ValueError, match=message):
        made.set_timesteps(10)


def test_a_tuned_scheduler_is_not_saved_and_comes_back_after_the_pipeline_is_loaded(
    folder: Path, denoiser: Any, tmp_path: Path
) -> None:
    schedule = load(folder / "timetuner.json")
    made = pipeline(copy.deepcopy(denoiser))
    made.scheduler = tuned_scheduler(schedule)
    made.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ValueError, match="has no class `TunedDDIMScheduler`"):
        DDIMPipeline.from_pretrained(tmp_path / "tuned")
    made.scheduler = scheduler(schedule)
    made.save_pretrained(tmp_path / "plain")
    loaded = [DDIMPipeline.from_pretrained(tmp_path / "plain") for _ in range(2)]
    images = []
    for each in (made, loaded[0]):
        each.scheduler = tuned_scheduler(schedule)
        images.append(final(each))
    assert torch.equal(*images)
    assert not torch.equal(images[0], final(loaded[1])), "tau is not in the saved pipeline"


def test_a_pipeline_with_a_hook_is_saved_as_it_was(
    folder: Path, denoiser: Any, tmp_path: Path
) -> None:
    schedule = load(folder / "timetuner.json")
    made = DDIMPipeline(copy.deepcopy(denoiser), scheduler(schedule))
    untuned = final(made)
    attach(made.unet, schedule)
    tuned = final(made)
    made.save_pretrained(tmp_path / "pipeline")
    loaded = DDIMPipeline.from_pretrained(tmp_path / "pipeline")
    assert torch.equal(final(loaded), untuned)
    attach(loaded.unet, schedule)
    assert torch.equal(final(loaded), tuned)
    assert not torch.equal(tuned, untuned)


def final(pipeline: DDIMPipeline) -> torch.Tensor:
    """What a pipeline's scheduler leaves after four steps, which nobody has clipped."""
    pipeline.set_progress_bar_config(disable=True)
    step, drawn = pipeline.scheduler.step, []

    def noted(*args: Any, **options: Any) -> Any:
        drawn.append(step(*args, **options))
        return drawn[-1]

    pipeline.scheduler.step = noted
    try:
        pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=4)
    finally:
        del pipeline.scheduler.step
    image: torch.Tensor = drawn[-1].prev_sample
    return image


def test_what_a_scheduler_cannot_do_is_said(folder: Path) -> None:
    schedule = load(folder / "timetuner.json")
    with pytest.raises(ValueError, match=r"^a scheduler cannot do tau_scope = full"):
        tuned_scheduler(schedule | {"tau_scope": "full"})
    with pytest.raises(ValueError, match=r"^diffusers has no such scheduler"):
        scheduler(schedule | {"scheduler": None})


@pytest.mark.parametrize("changes", [{"version": 9}, {"tau": [1.0]}, {"tau": [1e999] * 4}])
def test_the_plain_reader_checks_too(changes: dict[str, Any], folder: Path) -> None:
    path = folder / "timetuner.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=r"(version|tau) must "):
        load(path)
