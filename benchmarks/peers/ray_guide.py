"""Plain Ray, as its guide "Hyperparameter Tuning with Ray Tune" nests Ray Train in Ray Tune.

https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html (Ray 2.60). The
two functions have the guide's names and shape. What is different, and why:

- OptunaSearch proposes and ASHA stops early; the guide has a grid.
- A trial asks for TRAIN_DRIVER_RESOURCE, the guide's own advice, and not for one CPU, its default:
  with two CPUs, two drivers would hold both of them and their workers would wait for ever.
- A report carries no checkpoint: the training function writes its own, for every peer alike.
- The judge's classifier is trained once, in the driver.
- The dashboard's port is chosen and told to all processes: through the dashboard Ray Train gives
  the CPUs of a trial back that was stopped early, and finds it by itself only where no other Ray
  runs.
- The cluster has a token of its own in the environment, so that none is left in the user's home.

All else has its default: the health check every 2 s, the loggers, the console output.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import ray.tune
import torch
from optuna import Trial
from optuna.samplers import TPESampler
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.peers.task import Task


def train_fn_per_worker(config: dict[str, Any]) -> None:
    """Train one trial; Ray kills this process when the trial is to stop early."""
    torch.set_num_threads(1)

    def report(metrics: Mapping[str, float]) -> bool:
        ray.train.report(dict(metrics))
        return True

    Task.read(config["folder"]).train(config["number"], config["proposed"], report)


def train_driver_fn(config: dict[str, Any]) -> None:
    """Launch the Ray Train run of one trial, and wait for it."""
    trainer = ray.train.torch.TorchTrainer(
        train_fn_per_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"train-trial_id={ray.tune.get_context().get_trial_id()}",
            storage_path=f"{config['folder']}/train",
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def space(trial: Trial, task: Task) -> dict[str, Any]:
    """The configuration of one trial; OptunaSearch adds the parameters themselves."""
    proposed = task.suggest(trial)
    return {"folder": str(task.folder), "number": trial.number, "proposed": proposed}


def search(task: Task) -> None:
    task.prepare()
    _start_ray(task.lanes)
    ray.tune.Tuner(
        ray.tune.with_resources(train_driver_fn, {"TRAIN_DRIVER_RESOURCE": 0.01}),
        tune_config=ray.tune.TuneConfig(
            search_alg=OptunaSearch(
                partial(space, task=task),
                metric=task.metric,
                mode="min",
                points_to_evaluate=task.fixed(),
                sampler=TPESampler(n_startup_trials=task.startup, seed=task.seed),
            ),
            scheduler=ASHAScheduler(
                time_attr="images_seen",
                metric=task.metric,
                mode="min",
                grace_period=task.first_rung,
                reduction_factor=task.reduction,
                max_t=task.budget + 1,  # whoever reaches max_t is killed in its last report
            ),
            num_samples=task.trials,
            max_concurrent_trials=task.lanes,
        ),
        run_config=ray.tune.RunConfig(name="tune", storage_path=str(task.folder)),
    ).fit()
    ray.shutdown()


def _start_ray(cpus: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray.init("local", num_cpus=cpus, resources={"TRAIN_DRIVER_RESOURCE": 1.0}, dashboard_port=port)


if __name__ == "__main__":
    search(Task.read(sys.argv[1]))
