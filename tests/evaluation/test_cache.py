"""The cached classifier: read when it is whole, trained anew when it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepsearch.errors import UserError
from stepsearch.evaluation import ClassifierConfig
from stepsearch.evaluation.cache import cache_file, load_or_train

QUICK = ClassifierConfig(width=4, budget=2_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return cache_file(QUICK, "0123abcd", tmp_path)


@pytest.fixture
def prepare(digits, file):
    """Prepares the quick classifier with its file and returns the held-out features."""

    def features() -> torch.Tensor:
        train, held_out = (digits.train, digits.labels), (digits.held_out, digits.held_out_labels)
        classifier, accuracy = load_or_train(QUICK, train, held_out, file)
        assert accuracy == classifier.accuracy(*held_out)
        assert not classifier.training
        return classifier.features(digits.held_out)

    return features


def test_a_cached_classifier_is_not_trained_again(prepare, file, caplog):
    trained = prepare()
    os.utime(file, ns=(1, 1))
    assert torch.equal(prepare(), trained)
    assert file.stat().st_mtime_ns == 1
    assert not caplog.records


def test_each_data_set_and_configuration_has_its_own_file(tmp_path):
    other = QUICK.model_copy(update={"seed": 1})
    files = [cache_file(QUICK, "aa", tmp_path), cache_file(other, "aa", tmp_path)]
    files += [cache_file(QUICK, "bb", tmp_path)]
    assert len(set(files)) == 3
    assert files[0].parent == files[1].parent == tmp_path / "aa"


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def garble(file: Path) -> None:
    file.write_bytes(b"\xff" * 500)


def drop_metadata(file: Path) -> None:
    save_file(load_file(file), file)


def swap_network(file: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file, {"stepsearch": '{"accuracy": 1.0}'})


def break_metadata(file: Path) -> None:
    save_file(load_file(file), file, {"stepsearch": "{"})


def poison(file: Path) -> None:
    tensors = load_file(file)
    tensors["head.bias"][0] = float("nan")
    save_file(tensors, file, {"stepsearch": '{"accuracy": 1.0}'})


@pytest.mark.parametrize(
    "damage",
    [empty, truncate, garble, drop_metadata, swap_network, break_metadata, poison],
)
def test_a_damaged_file_is_reported_and_replaced(damage, prepare, file, caplog):
    trained = prepare()
    damage(file)
    assert torch.equal(prepare(), trained)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is unusable and is trained anew" in caplog.text
    caplog.clear()
    assert torch.equal(prepare(), trained)
    assert not caplog.records


def test_what_an_interrupted_writer_left_is_ignored(prepare, file):
    file.parent.mkdir()
    (file.parent / f".{file.name}.abc").write_bytes(b"half a file")
    assert torch.equal(prepare(), prepare())


RACER = """
import sys, torch
from pathlib import Path
from stepsearch.evaluation import ClassifierConfig
from stepsearch.evaluation.cache import cache_file, load_or_train
torch.set_num_threads(1)
images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
data = (images, torch.arange(200) % 2)
config = ClassifierConfig(width=4, budget=2_000)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    file = cache_file(config, "race", Path(sys.argv[1]))
    classifier, _ = load_or_train(config, data, data, file)
    file.unlink(missing_ok=True)
print(float(classifier.features(images).sum()))
"""


def test_processes_that_race_for_the_file_all_get_the_same_classifier(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACER, str(tmp_path)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
    answers = [racer.communicate("go\n")[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert answers[0] == answers[1]
    assert [file.suffix for file in (tmp_path / "race").iterdir()] == [".lock"]


def test_a_cache_that_is_not_a_folder_is_a_user_error(prepare, file):
    file.parent.write_text("in the way")
    with pytest.raises(UserError, match=r"cache must be a writable folder, got .*0123abcd"):
        prepare()
