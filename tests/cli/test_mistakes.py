"""One line for each mistake, and nothing left behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import run_search
from search_spaces import SPACES
from stepsearch.evaluation.features.dinov2 import PUBLISHED as DINOV2
from stepsearch.evaluation.features.inception import PUBLISHED
from stepsearch.search.folder import SearchFolder
from stepsearch.strategies import STRATEGIES
from tests.cli.conftest import Cli, Ending, Recorded


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size; sqlite's own scratch files aside."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if not path.name.endswith(("-wal", "-shm"))
    }


def assert_refused(ending: Ending, line: str) -> None:
    assert ending.code == 2
    assert ending.out == ""
    assert ending.err == f"error: {line}\n"


LONG = "x" * 300
"""A name that no file can have; a folder that may not be entered raises the same kind of error."""
SPACE_KINDS = ", ".join(map(repr, SPACES))
STRATEGY_KINDS = ", ".join(map(repr, STRATEGIES))
REPORTED = (
    "fd_digits, off_manifold, kid_digits, precision, recall, pixel_fd, density, coverage, "
    "fd_digits_se, train_loss, grad_norm, drawn_images, network_evaluations, drawing_cpu_s, "
    "drawing_s, evaluation_cpu_s, judging_cpu_s, judging_s, train_cpu_s, images_per_s"
)
HIGHER = ("precision", "recall", "density", "coverage", "images_per_s")
LOWER = ", ".join(name for name in REPORTED.split(", ") if name not in HIGHER)

IN_THE_FILE = [
    ("buget.trials=3", "buget is not a known key; did you mean 'budget'? (known keys: budget, "
     "cluster, finalists, guards, lanes, name, objectives, optuna_sampler, prices, retries, seed, "
     "space, storage, tracking, trainer, trial_scheduler, warm_start, watchdog_s)"),
    ("budget.trails=3", "budget.trails is not a known key; did you mean 'trials'? (known keys: "
     "cpu_hours, first_report, gpu_hours, hours, images, money, reports, trials)"),
    ("prices.gpu_hours=2", "prices.gpu_hours is not a known key; did you mean 'gpu_hour'? (known "
     "keys: cpu_hour, currency, gpu_hour)"),
    ("budget.hours=8h", "budget.hours must be a number, got '8h'"),
    ("budget.money=5", "budget.money must have a price: set prices.gpu_hour or prices.cpu_hour, "
     "got money 5"),
    ("lanes.shares=0.5", "lanes.shares is not a known key; did you mean 'share'? (known keys: "
     "count, cpus, gpus, min_workers, priority, share, workers)"),
    ("lanes.share=2", "lanes.share must be at most 1, got 2"),
    ("lanes.min_workers=2", "lanes.min_workers must be at most workers (1), got 2"),
    ("trainer.training.batchsize=1", "trainer.training.batchsize is not a known key; did you mean "
     "'batch_size'? (known keys: accumulation, batch_size, channels_last, compile, ema_decay, "
     "ema_halflives, grad_clip, gradient_checkpointing, label_dropout, lr, lr_scheduler, "
     "precision, prediction_type, warmup_steps, weight_decay)"),
    ("trainer.training.precision=fp16", "trainer.training.precision must be one of 'float32', "
     "'bfloat16' or 'float16', got 'fp16'"),
    ("trainer.training.ema_halflives=[500, 0]", "trainer.training.ema_halflives[1] must be at "
     "least 1, got 0"),
    ("trainer={denoiser: {kind: multistage_unet}, training: {batch_size: 32, compile: true}}",
     "training.compile must be false for a denoiser with stages, got true"),
    ("trainer={denoiser: {kind: multistage_unet}, training: {batch_size: 32, "
     "gradient_checkpointing: true}}", "training.gradient_checkpointing must be false for a "
     "denoiser that cannot compute its forward again, as MultistageUNet, got true"),
    ("budget.trials=many", "budget.trials must be an integer, got 'many'"),
    ("budget.trials=0", "budget.trials must be at least 1, got 0"),
    ("space=sped", f"space.kind must be one of {SPACE_KINDS}, got 'sped'"),
    ("space=", "space must be a mapping, got None"),
    ("space.k=[0.5, 5]", "space.k must be a range inside 1..1000, got (0.5, 5)"),
    ("space.k=[5, 1]", "space.k must be a range low < high, got (5, 1)"),
    ("space.k=[2, 2]", "space.k must be a range low < high, got (2, 2)"),
    ("space.k=[2, 5]",
     "space.k must be a range that holds 1, the uniform baseline, got (2, 5)"),
    ("space.lam=[0.4, 0.8]", "space.lam must be a range inside 0.5..1, got (0.4, 0.8)"),
    ("space.lam=[0.5, 1.2]", "space.lam must be a range inside 0.5..1, got (0.5, 1.2)"),
    ("space.tau=[0.4, 1.2]", "space.tau must be a range inside 0..1, got (0.4, 1.2)"),
    ("space={kind: min_snr, gamma_low: 20000}",
     "min_snr.gamma_low must be below 10000 (the highest SNR), got 20000"),
    ("trainer=denoise", "trainer.kind must be one of 'denoising', 'timetuner', got 'denoise'"),
    ("trainer={kind: timetuner}", "trainer.checkpoint is required"),
    ("trainer={kind: timetuner, checkpoint: {name: old}}", "trainer.checkpoint.kind is required"),
    ("trainer={kind: timetuner, checkpoint: {kind: search, name: old, storage: searches}}",
     "search must be one of those in {cwd}/searches (none yet), got 'old'"),
    ("space=timetuner", "space 'timetuner' must be used with trainer timetuner, got 'denoising'"),
    ("objectives=[{name: fd_digit}]", "objectives[0].name must be a metric that trials report "
     f"({REPORTED}), got 'fd_digit'"),
    ("objectives=[{name: fd_digits}, {name: recall}]", "objectives[1].direction must be maximize "
     "for recall, which is better when higher, got 'minimize'"),
    ("guards={off_manifol: 0.02}", "guards must be of metrics that trials report and that are "
     f"better when lower ({LOWER}), got 'off_manifol'"),
    ("guards={recall: 0.02}", "guards must be of metrics that trials report and that are "
     f"better when lower ({LOWER}), got 'recall', which is better when higher"),
    ("trainer.strategy={kind: speed, tau: 1200}", "speed.tau must be in 1..1000 (T), got 1200"),
    ("trainer.strategy={kind: speed, k: 0.5}", "trainer.strategy.k must be at least 1, got 0.5"),
    ("trainer.strategy={kind: speed, lam: 0.3}",
     "trainer.strategy.lam must be at least 0.5, got 0.3"),
    ("trainer.strategy={kind: speed, lam: 1.1}",
     "trainer.strategy.lam must be at most 1, got 1.1"),
    ("trainer.judge.features={kind: clip}", "trainer.judge.features.kind must be one of "
     "'classifier', 'inception', 'dinov2', 'efficientnet_lite0', got 'clip'"),
    ("trainer.judge={features: {kind: dinov2, network: vits14, weights: /no/x}, "
     "classifier: {budget: 60000}}",
     f"judge.features.weights must be {DINOV2['vits14'].what}, got '/no/x': No such file or "
     "directory"),
    ("trainer.judge={features: {kind: inception, weights: /no/x}, classifier: {budget: 60000}}",
     f"judge.features.weights must be {PUBLISHED.what}, got '/no/x': No such file or "
     "directory"),
    ("trainer.judge={features: {kind: efficientnet_lite0}, classifier: {budget: 9}}",
     "trainer.judge.classifier must be left out unless features.kind is classifier, got "
     "features.kind 'efficientnet_lite0'"),
    ("trainer.dataset={kind: images, path: /no/where, size: 8}",
     "dataset.path must exist, got '/no/where'"),
    ("trainer.dataset={kind: images, path: searches, size: 8}", "dataset.path holds no images "
     "(.bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp): {cwd}/searches"),
    ("trainer.denoiser.channels=[8, 12]",
     "trainer.denoiser.channels must be multiples of groups (8), got (8, 12)"),
    ("trainer.denoiser={preset: ddpm}", "trainer.denoiser.preset must be one of 'ddpm_cifar10', "
     "'ddpm_256' or 'ldm_celebahq', got 'ddpm'"),
    ("trainer.denoiser={kind: dit, layers: 0}",
     "trainer.denoiser.layers must be at least 1, got 0"),
    ("trainer.denoiser.class_conditional=10",
     "trainer.denoiser.class_conditional must be true or false, got 10"),
    ("trainer.denoiser={kind: multistage_unet, class_conditional: true}",
     "trainer.denoiser.class_conditional is not a known key (known keys: attention, boundaries, "
     "channels, decoders, groups, kind, layers, stages_a_worker)"),
    ("trainer.training.label_dropout=0.1",
     "training.label_dropout must be 0 for a denoiser without classes, got 0.1"),
    ("trainer.sampler.guidance=2",
     "sampler.guidance must be 1 for a denoiser without classes, got 2"),
    ("trainer={denoiser: {class_conditional: true}, sampler: {guidance: 1.5}, "
     "training: {batch_size: 32}}", "sampler.guidance must be 1 where training.label_dropout is "
     "0, so that the null class is not trained, got 1.5"),
    ("trainer.denoiser={kind: pretrained}", "trainer.denoiser.path is required"),
    ("trainer.denoiser={kind: pretrained, path: searches}", "denoiser.path must hold a "
     "config.json, also in unet/ or transformer/, got '{cwd}/searches'"),
    ("trainer.denoiser.kind=uvit", "trainer.denoiser.kind must be one of 'unet', 'dit', "
     "'multistage_unet', 'multistage_dit', 'pretrained', got 'uvit'"),
    ("trainer.sampler.num_steps=3", "sampler.num_steps must divide T = 1000, got 3"),
    ("trainer.noise.schedule=linaer", "trainer.noise.schedule must be one of 'linear', 'quad', "
     "'cosine', 'scaled_linear' or 'const', got 'linaer'"),
    ("trainer.noise.kind=ve", "trainer.noise.kind must be one of 'vp', 'edm', 'flow', got 've'"),
    ("trainer.noise={kind: flow, shft: 3}", "trainer.noise.shft is not a known key; did you mean "
     "'shift'? (known keys: kind, shift, timesteps)"),
    ("trainer.noise={kind: edm}",
     "training.prediction_type must be edm on noise.kind edm, got 'epsilon'"),
    ("trainer.noise={zero_terminal_snr: true}", "training.prediction_type must be v_prediction or "
     "sample on noise.kind vp with zero_terminal_snr, got 'epsilon'"),
    ("trainer.training.prediction_type=flow", "training.prediction_type must be epsilon, "
     "v_prediction or sample on noise.kind vp, got 'flow'"),
    ("trainer.sampler.kind=euler", "sampler.kind must be ddim or ddpm on noise.kind vp, "
     "got 'euler'"),
    ("lanes.workers=3", "training.batch_size must be a multiple of the 3 workers, got 32"),
    ("lanes.count=none", "lanes.count must be an integer, got 'none'"),
    ("name=a b", "name must be a string that matches ^[A-Za-z0-9][A-Za-z0-9._-]*$, got 'a b'"),
    ("tracking.uri=./mlruns", "tracking.uri must start with one of sqlite, http, https, "
     "postgresql, mysql, mssql, databricks and ://, got './mlruns'"),
    ("storage=small.yaml",
     "storage must be a folder that can be written, got '{cwd}/small.yaml': Not a directory"),
    ("storage=/proc/searches", "storage must be a folder that can be written, got "
     "'/proc/searches': No such file or directory"),
    ("budget", "--set must be KEY=VALUE, got 'budget'"),
    ("=3", "--set must be KEY=VALUE, got '=3'"),
    ("budget..trials=3", "--set must be KEY=VALUE, got 'budget..trials=3'"),
    ("space.k=[1, 5", "--set space.k must be YAML, got '[1, 5'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), IN_THE_FILE, ids=[case[0] for case in IN_THE_FILE])
def test_a_wrong_search_is_refused_with_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, change: str, line: str
) -> None:
    before = tree(tmp_path)
    assert_refused(cli("run", "small.yaml", "--set", change), line.replace("{cwd}", str(tmp_path)))
    assert tree(tmp_path) == before


WORDS = [
    (["run", "gone.yaml"],
     "FILE must be a file that can be read, got 'gone.yaml': No such file or directory"),
    (["plan", "searches"],
     "FILE must be a file that can be read, got 'searches': Is a directory"),
    (["run", "list.yaml"], "FILE must hold a mapping, got list in 'list.yaml'"),
    (["run", "empty.yaml"], "FILE must hold a mapping, got NoneType in 'empty.yaml'"),
    (["run", "tab.yaml"], "FILE must be YAML, got 'tab.yaml': while scanning for the next token "
     "found character '\\t' that cannot start any token in \"<unicode string>\", line 1, "
     "column 9: budget: x ^"),
    (["run", "binary.yaml"], "FILE must be YAML, got 'binary.yaml': 'utf-8' codec can't decode "
     "byte 0xff in position 0: invalid start byte"),
    (["plan", "small.yaml", "--set", "space.k=[5, 1]"],
     "space.k must be a range low < high, got (5, 1)"),
    *[([verb, "new"], "search must be one of those in {cwd}/searches (old), got 'new'")
      for verb in ("resume", "status", "ui", "export", "cancel")],
    (["status", "new", "--storage", "elsewhere"],
     "search must be one of those in {cwd}/elsewhere (none yet), got 'new'"),
    (["cancel", "old"], "search 'old' must be running: no driver has it"),
    (["submit", "small.yaml"], "storage must be a bucket or the whole path of a folder that all "
     "nodes see, got 'searches'"),
    (["submit", "small.yaml", "--set", "storage=/data", "--address", "auto"], "--address must be "
     "the Ray job server of a cluster (http://HEAD:8265), got 'auto'"),
    (["status", "--address", "cluster:6379"], "--address must be the Ray job server of a cluster "
     "(http://HEAD:8265), got 'cluster:6379'"),
    (["run", "small.yaml", "--address", "http://head:8265"], "--address must be local, auto or "
     "host:port, got 'http://head:8265': `submit` takes it"),
    (["export", "old"], "export must have a finished trial: old has none yet"),
    (["export", "old", "--trial", "3"], "export must have a finished trial: old has none yet"),
    (["resume", "old", "--trials", "1"], "trials must be at least the 2 of old, got 1"),
    (["resume", "old", "--address", ""], "--address must be local, auto or host:port, got ''"),
    (["run", "small.yaml", "--address", ""], "--address must be local, auto or host:port, got ''"),
    (["resume", "old", "--money", "9"],
     "budget.money must have a price: set prices.gpu_hour or prices.cpu_hour, got money 9"),
    (["resume", "old", "--hours", "0"], "budget.hours must be greater than 0, got 0.0"),
    (["run", "small.yaml", "--set", "name=old"],
     "name must be new, got 'old', which exists in {cwd}/searches: "
     "`resume old` goes on with it"),
    (["show", "sped"],
     f"strategy.kind must be one of {STRATEGY_KINDS}, got 'sped'"),
    (["show", "speed", "--set", "tua=3"], "strategy.tua is not a known key; did you mean 'tau'? "
     "(known keys: abar, convergence_weight, k, kind, lam, mirror, r, stratify, tau)"),
    (["show", "speed", "--set", "tau=1200"], "speed.tau must be in 1..1000 (T), got 1200"),
    (["show", "speed", "--set", "tau=60", "--set", "timesteps=50"],
     "speed.tau must be in 1..50 (T), got 60"),
    (["show", "speed", "--set", "tau=3", "--set", "r=7"],
     "strategy: speed must have one of tau, r, abar, got tau and r"),
    (["show", "speed", "--noise", "pink"], "noise.schedule must be one of 'linear', 'quad', "
     "'cosine', 'scaled_linear' or 'const', got 'pink'"),
    (["show", "speed", "--set", "timesteps=9"], "noise.timesteps must be at least 50, got 9"),
    (["show", "p2", "--set", "prediction_type=x0"], "prediction_type must be one of 'epsilon', "
     "'v_prediction', 'sample', 'flow' or 'edm', got 'x0'"),
    (["show", "p2", "--noise", "edm", "--set", "prediction_type=sample"],
     "training.prediction_type must be edm on noise.kind edm, got 'sample'"),
    (["show", "p2", "--noise", "flow", "--set", "noise.shift=0"],
     "noise.shift must be at least 0.01, got 0"),
    (["show", "p2", "--set", "noise=3"], "noise must be a mapping, got 3"),
    (["show", "p2", "--set", "batch_size=0"], "batch_size must be greater than 0, got 0"),
    (["strategies", "show", "laplace", "--set", "b=0"], "strategy.b must be at least 0.05, got 0"),
    (["strategies", "areas", "--schedule", "pink"], "noise.schedule must be one of 'linear', "
     "'quad', 'cosine', 'scaled_linear' or 'const', got 'pink'"),
    (["strategies", "areas", "--timesteps", "9"], "noise.timesteps must be at least 50, got 9"),
    (["strategies", "areas", "--r", "1"], "r must be in 1.653..2.478e+04 (1 / alpha_bar from the "
     "fastest change on), got 1"),
    (["strategies", "list", "--out", "no/such.png"],
     "--out must be a file that can be written, got 'no/such.png': No such file or directory"),
    (["show", "p2", "--json", "no/where.json"], "--json must be a file that can be written, got "
     "'no/where.json': No such file or directory"),
    (["show", "p2", "--json", "searches"],
     "--json must be a file that can be written, got 'searches': Is a directory"),
    *[(words, f"--out must be a file that can be written, got '{LONG}.png': File name too long")
      for words in (["strategies", "list", "--out", f"{LONG}.png"],
                    ["stages", "digits", "--samples", "100", "--out", f"{LONG}.png"],
                    ["data", "inspect", "searches", "--out", f"{LONG}.png"])],
    (["stages", "digits", "--samples", "100", "--out", "/proc/a.png"],
     "--out must be a file that can be written, got '/proc/a.png': No such file or directory"),
    (["stages", LONG], f"DATASET must be one that can be read, got '{LONG}': File name too long"),
    (["status", "--storage", LONG],
     f"storage must be a folder that can be read, got '{{cwd}}/{LONG}': File name too long"),
    *[([verb, LONG],
       f"search must be one that can be read, got '{LONG}' in {{cwd}}/searches: File name too "
       "long") for verb in ("status", "resume", "ui", "cancel")],
]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), WORDS, ids=[" ".join(case[0]) for case in WORDS])
def test_a_wrong_command_is_refused_with_one_line_and_leaves_nothing(
    cli: Cli, recorded_search: Recorded, tmp_path: Path, words: list[str], line: str
) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "tab.yaml").write_text("budget: \tx")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    recorded_search()
    before = tree(tmp_path)
    assert_refused(cli(*words), line.replace("{cwd}", str(tmp_path)))
    assert tree(tmp_path) == before


def test_unreadable_images_are_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "images" / name).write_text("no image")
    before = tree(tmp_path)
    dataset = "trainer.dataset={kind: images, path: images, size: 8}"
    ending = cli("run", "small.yaml", "--set", dataset)
    assert_refused(ending, "dataset.path holds 2 unreadable images: a.png, b.jpg")
    assert tree(tmp_path) == before


def test_a_space_that_does_not_fit_the_trainer_is_refused(cli: Cli, tmp_path: Path) -> None:
    """`mirror` needs timesteps without meaning, which 100 of the cosine schedule do not have."""
    before = tree(tmp_path)
    noise = "trainer.noise={schedule: cosine, timesteps: 100}"
    ending = cli("run", "small.yaml", "--set", "space.mirror=true", "--set", noise)
    assert_refused(
        ending,
        "speed.mirror must be false on this noise process (T = 100): "
        "sqrt(1 - alpha_bar) never changes by less than 0.0001 a step",
    )
    assert tree(tmp_path) == before


def test_an_mlflow_server_that_does_not_answer_is_refused(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, so that nobody else listens there
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        before = tree(tmp_path)
        ending = cli("run", "small.yaml", "--set", f"tracking.uri={uri}")
    assert_refused(ending, f"tracking.uri must answer, got '{uri}': Connection refused")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("lanes", "line"),
    [
        ("{count: 3}", "lanes must fit into the cluster: 3 x 1 workers need 3 CPUs and 0 GPUs, "
         "it has 2 CPUs and 0 GPUs"),
        ("{workers: 4}", "lanes must fit into the cluster: 1 x 4 workers need 4 CPUs and 0 GPUs, "
         "it has 2 CPUs and 0 GPUs"),
        ("{gpus: 1}", "lanes must fit into the cluster: 1 x 1 workers need 1 CPUs and 1 GPUs, "
         "it has 2 CPUs and 0 GPUs"),
        ("{share: 0.4}", "lanes must fit into 0.4 of the cluster: 1 x 1 workers need 1 CPUs and "
         "0 GPUs, it has 0.8 CPUs and 0 GPUs"),
        ("{workers: 2, gpus: 0.5}", "lanes.gpus may be a fraction below 1 only with "
         "lanes.workers 1, got gpus 0.5 with workers 2"),
    ],
    ids=["lanes", "workers", "gpus", "share", "a fraction"],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_lanes_that_the_cluster_cannot_hold_are_refused_with_the_numbers(
    ray_cluster: None, cli: Cli, tmp_path: Path, verb: str, lanes: str, line: str
) -> None:
    before = tree(tmp_path)
    assert_refused(cli(verb, "small.yaml", "--set", f"lanes={lanes}"), line)
    assert tree(tmp_path) == before


def test_a_changed_search_is_not_taken_for_the_one_of_its_name(cli: Cli, tmp_path: Path) -> None:
    config = run_search.load(Path("small.yaml"), []).resolved()
    SearchFolder.create(config.folder, config).trial(0).mkdir(parents=True)
    before = tree(tmp_path)
    line = "seed must stay 0 in search 'small', got 1: a changed search needs a name of its own"
    assert_refused(cli("run", "small.yaml", "--resume", "--set", "seed=1"), line)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_budget_that_the_lanes_never_use_up_is_refused(
    ray_cluster: None, cli: Cli, tmp_path: Path, verb: str
) -> None:
    before = tree(tmp_path)
    ending = cli(verb, "small.yaml", "--set", "budget.gpu_hours=2")
    line = "budget.gpu_hours must be something that the lanes use: one has 1 CPUs and 0 GPUs"
    assert_refused(ending, line)
    assert tree(tmp_path) == before
