"""In which precision, layout and memory a denoiser is trained, and compiled: the same training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from stepsearch.diffusion.execution import check_precision, precisions
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.errors import UserError
from stepsearch.strategies import strategy

Build = Callable[..., Training]

CPU, META = torch.device("cpu"), torch.device("meta")


def weights(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def looked_at(training: Training, look: Callable[[Tensor], Any]) -> set[Any]:
    """What `look` says of the features in the middle of the network, in two steps."""
    seen = []
    middle: Any = training.denoiser.get_submodule("mid_block")
    middle.register_forward_hook(lambda _module, _inputs, output: seen.append(look(output)))
    training.run(16)
    assert seen
    return set(seen)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_only_the_network_computes_in_fewer_bits(build_training: Build, precision: str) -> None:
    training = build_training(precision=precision)
    state = training.state_dict()
    assert looked_at(training, lambda features: features.dtype) == {getattr(torch, precision)}
    for part in ("denoiser", "ema"):
        assert {weight.dtype for weight in state[part].values()} == {torch.float32}
    with torch.no_grad():
        sample = training.ema(torch.zeros(1, 1, 8, 8), torch.tensor([0])).sample
    assert sample.dtype == torch.float32


@pytest.mark.parametrize(("precision", "rel"), [("bfloat16", 1e-2), ("float16", 1e-3)])
def test_fewer_bits_train_almost_alike(build_training: Build, precision: str, rel: float) -> None:
    expected, found = build_training().run(80), build_training(precision=precision).run(80)
    assert found.mean_loss == pytest.approx(expected.mean_loss, rel=rel)
    assert found.mean_loss != expected.mean_loss
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=rel)


def test_what_strategies_look_at_is_float32(build_training: Build) -> None:
    plain, half = build_training(), build_training(precision="bfloat16")
    images = (torch.rand(4, 1, 8, 8), torch.tensor([1, 200, 500, 900]), torch.randn(4, 1, 8, 8))
    for look in ("losses", "gradient"):
        found, expected = (getattr(t._evaluator, look)(*images) for t in (half, plain))
        assert torch.equal(found, expected)


def test_a_precision_that_a_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precisions(CPU) == ("float32", "bfloat16", "float16")
    with pytest.raises(UserError) as caught:
        check_precision("bfloat16", META)
    assert str(caught.value) == "training.precision must be float32 on meta here, got 'bfloat16'"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert precisions(torch.device("cuda")) == ("float32", "float16")


# --- layout and memory --------------------------------------------------------------------------


def test_the_channels_lie_together_all_the_way_through(build_training: Build) -> None:
    def last(features: Tensor) -> bool:
        return features.is_contiguous(memory_format=torch.channels_last)

    assert looked_at(build_training(channels_last=True), last) == {True}
    assert looked_at(build_training(), last) == {False}


def test_channels_last_trains_the_same_weights(build_training: Build, tmp_path: Path) -> None:
    plain, laid_out = build_training(), build_training(channels_last=True)
    for training in (plain, laid_out):
        training.run(80)
    torch.testing.assert_close(weights(laid_out.ema), weights(plain.ema), rtol=1e-4, atol=1e-5)
    laid_out.ema.save_pretrained(tmp_path)  # safetensors takes no other layout than the usual one


def test_gradient_checkpointing_changes_nothing_but_the_memory(build_training: Build) -> None:
    plain, again = build_training(), build_training(gradient_checkpointing=True)
    passes = []
    again.denoiser.get_submodule("down_blocks.0.resnets.0").register_forward_pre_hook(
        lambda *_: passes.append(1)
    )
    for training in (plain, again):
        training.run(80)
    assert len(passes) == 2 * 10  # forward, and once more in backward
    assert torch.equal(weights(again.ema), weights(plain.ema))


@pytest.mark.parametrize(
    ("field", "line"),
    [
        (
            "gradient_checkpointing",
            "training.gradient_checkpointing must be false for a denoiser that cannot compute its"
            " forward again, as MultistageUNet, got true",
        ),
        ("compile", "training.compile must be false for a denoiser with stages, got true"),
    ],
)
def test_what_a_denoiser_with_stages_cannot_do_is_refused(
    build_training: Build, field: str, line: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_training(stages_a_worker="all", **{field: True})
    assert str(caught.value) == line


# --- torch.compile ------------------------------------------------------------------------------


class Small(nn.Module):
    """A denoiser that is compiled in seconds, to something else where `error` is not 0."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.layer, self.time, self.error = nn.Linear(64, 64), nn.Linear(1, 64), error

    def forward(self, x: Tensor, t: Tensor) -> UNet2DOutput:
        h = self.layer(x.flatten(1)) + self.time(t[:, None] / 1000)
        if torch.compiler.is_compiling():
            h = h * (1 + self.error)
        return UNet2DOutput(sample=h.tanh().view_as(x))


class Told(Small):
    """The same with ten classes."""

    null_class = 10

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(11, 64)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> UNet2DOutput:
        return super().forward(x + self.classes(class_labels).view_as(x), t)


def small(error: float = 0.0, *, classes: bool = False, **changes: Any) -> Training:
    process = VPConfig().build()
    torch.manual_seed(0)
    return Training(
        TrainingConfig(batch_size=8, **changes),
        Told() if classes else Small(error),
        process,
        strategy("uniform").build(process.alpha_bar),
        torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        budget=480,
        seed=0,
        labels=torch.arange(16) % 10,
    )


compiles = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("classes", [False, True])
def test_a_compiled_denoiser_trains_the_same_weights(classes: bool) -> None:
    plain, compiled = small(classes=classes), small(classes=classes, compile=True)
    assert torch.equal(weights(compiled.denoiser), weights(plain.denoiser))
    expected, found = plain.run(80), compiled.run(80)
    assert found.mean_loss == pytest.approx(expected.mean_loss, rel=1e-5)
    assert "OptimizedModule" in type(compiled._network).__name__
    torch.testing.assert_close(weights(compiled.ema), weights(plain.ema), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@compiles
def test_a_compiler_that_changes_the_gradient_is_noticed() -> None:
    with pytest.raises(UserError) as caught:
        small(error=0.3, compile=True)
    assert str(caught.value).startswith(
        "training.compile must be false where torch.compile changes the denoiser's gradient,"
        " got true: "
    )


@compiles
def test_a_machine_without_a_compiler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    nowhere = {"cpp.cxx": (None, str(tmp_path / "no_compiler"))}
    with inductor.patch(nowhere), pytest.raises(UserError) as caught:
        small(compile=True)
    line = str(caught.value)
    assert line.startswith("training.compile must be false where torch.compile fails on cpu here,")
    assert "No working C++ compiler found" in line
    assert "\n" not in line
