"""A search in a bucket, seen from several machines; without training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stepsearch.bucket import Refused, S3Url
from stepsearch.diffusion.checkpoints import read_checkpoint, write_checkpoint
from stepsearch.diffusion.multistage.shards import earlier, shard
from stepsearch.errors import UserError
from stepsearch.search.again import has_begun
from stepsearch.search.carrier import Carrier
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder, names
from stepsearch.search.history import History
from stepsearch.search.nodes import compare, look_around
from stepsearch.search.probe import probing, read
from stepsearch.search.shared_storage import answer
from stepsearch.search.trial import Trial
from stepsearch.study import Objective, RandomConfig, Study
from tests.search.conftest import Small
from tests.store import BUCKET, Store

STORAGE = S3Url(f"s3://{BUCKET}/team")
GoTo = Callable[[str], None]


@pytest.fixture
def go_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GoTo:
    """Continue the test on another machine, or on one where it was before."""
    return lambda machine: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))


@pytest.fixture
def config(small: Small, store: Store) -> SearchConfig:
    config: SearchConfig = small(storage=STORAGE, tracking={"uri": "http://127.0.0.1:9"})
    return config


def create(config: SearchConfig) -> SearchFolder:
    there = SearchFolder.of(config.storage, config.name)
    folder = SearchFolder.create(there.path, config, there.mirror)
    Study.create(folder.study, config.name, [Objective("fd")], RandomConfig(), seed=0).close()
    return folder


def test_what_one_machine_has_written_another_reads_and_goes_on_with(
    config: SearchConfig, go_to: GoTo, store: Store
) -> None:
    folder = create(config)
    with folder.locked():
        folder.trial(0).mkdir(parents=True)
        History(folder.history).add(0, 10, {"fd": 2.0})
        folder.mirror.keep()
        go_to("second")
        seen = SearchFolder.find(config.storage, config.name)
        assert seen.path != folder.path
        assert seen.id == folder.id
        assert History(seen.history).curve(0, "fd") == {10: 2.0}
        Study.open(seen.study, config.name).close()
        assert has_begun(config)
    with seen.locked():
        History(seen.history).add(0, 20, {"fd": 1.0})
        (seen.path / "mine").touch()
    go_to("machine")
    folder = SearchFolder.find(config.storage, config.name)
    assert History(folder.history).curve(0, "fd") == {10: 2.0, 20: 1.0}
    (folder.path / "stray").touch()
    with folder.locked():
        History(folder.history).add(0, 30, {"fd": 0.5})
        SearchFolder.find(config.storage, config.name)
        assert (folder.path / "stray").exists(), "a driver's own copy is not replaced"
    assert store.names() == {"team/small/search.yaml", "team/small/state.zip"}
    assert names(config.storage) == ["small"]


def test_what_a_dead_driver_did_not_bring_to_the_bucket_is_forgotten(
    config: SearchConfig, go_to: GoTo
) -> None:
    folder = create(config)
    with folder.locked():
        History(folder.history).add(0, 10, {"fd": 2.0})
    History(folder.history).add(0, 20, {"fd": 1.0})
    go_to("second")
    with SearchFolder.find(config.storage, config.name).locked():
        pass
    go_to("machine")
    folder = SearchFolder.find(config.storage, config.name)
    assert History(folder.history).curve(0, "fd") == {10: 2.0}


def test_the_files_of_records_that_wait_for_mlflow_come_along(
    config: SearchConfig, go_to: GoTo, store: Store
) -> None:
    folder = create(config)
    with folder.locked():
        pictures = folder.trial(0) / "pictures"
        pictures.mkdir(parents=True)
        (pictures / "samples.png").touch()
        (folder.trial(0) / "checkpoint.pt").touch()
        folder.mirror.keep_files(folder.trial(0))
        folder.spool.write_text("a record")
        folder.extend(9, {})
    assert b"trials: 9" in store.read("team/small/search.yaml")
    go_to("second")
    folder = SearchFolder.find(config.storage, config.name)
    assert not any(folder.trials.iterdir())
    with folder.locked():
        found = {path.name for path in folder.trials.rglob("*") if path.is_file()}
        assert found == {"samples.png"}
        folder.mirror.bring_trial(0, checkpoints=True)
        assert (folder.trial(0) / "checkpoint.pt").exists()


def test_a_name_is_taken_on_all_machines(config: SearchConfig, go_to: GoTo) -> None:
    create(config)
    line = rf"^name must be new, got 'small', which exists in {STORAGE}: `resume small` goes on"
    for machine in ("machine", "second"):
        go_to(machine)
        with pytest.raises(UserError, match=line):
            create(config)
    go_to("third")
    with pytest.raises(UserError, match=rf"one of those in {STORAGE} \(small\), got 'other'"):
        SearchFolder.find(STORAGE, "other")
    assert not (STORAGE.home / "other").exists()


def test_a_launch_that_was_cut_short_is_cleared_away_from_any_machine(
    config: SearchConfig, go_to: GoTo, store: Store
) -> None:
    for objects in (set(), {"team/small/search.yaml"}):
        create(config)
        for name in objects:
            store.client.delete_object(Bucket=BUCKET, Key=name)
        go_to("second")
        assert not has_begun(config)
        assert store.names() == set()
        go_to("third")


def test_a_file_for_mlflow_would_be_lost_and_is_refused(small: Small) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri must name an MLflow server .* got None"):
        small(storage=str(STORAGE))
    with pytest.raises(UserError, match=r"^storage must be a folder or s3://bucket/prefix, witho"):
        small(storage="s3://key:secret@searches/team")


def trial_of(config: SearchConfig) -> Trial:
    return Trial(3, config.trainer, 0, (10,), config.folder / "trials/003", config.home / ".cache")


def alive() -> None:
    """What a lane tells the search while it waits."""


def test_a_trial_goes_on_at_another_node_from_what_the_first_one_saved(
    config: SearchConfig, go_to: GoTo, store: Store
) -> None:
    carrier = Carrier(STORAGE, config.name, "0-0")
    here = carrier.bring(trial_of(config), alive)
    assert list(here.folder.iterdir()) == []
    (here.folder / "checkpoint.pt.before").write_text("old")
    (here.folder / "checkpoint.pt").write_text("new")
    (here.folder / "loss.jsonl").write_text("1\n")
    carrier.save(alive)
    objects = {f"team/small/trials/003/{name}" for name in ("checkpoint.pt", "loss.jsonl")}
    assert store.names() == objects

    go_to("second")
    other = Carrier(STORAGE, config.name, "1-0")
    there = other.bring(trial_of(config), alive)
    assert (there.folder / "checkpoint.pt").read_text() == "new"
    (there.folder / "checkpoint.pt").write_text("newer")
    store.client.delete_object(Bucket=BUCKET, Key="team/small/trials/003/loss.jsonl")
    other.save(alive)
    assert {name.rpartition("/")[2] for name in store.names()} == {"checkpoint.pt"}, (
        "new ones only"
    )
    other.clear()
    assert not there.folder.exists()

    go_to("machine")
    back = carrier.bring(trial_of(config), alive)
    assert [path.name for path in back.folder.iterdir()] == ["checkpoint.pt"]
    assert (back.folder / "checkpoint.pt").read_text() == "newer", "not what was left there"


def test_the_parts_of_a_checkpoint_come_with_those_before_them(
    config: SearchConfig, go_to: GoTo, store: Store
) -> None:
    """A worker may die when the other one's part is there: so the bucket has all of one moment."""
    for stage, moments in ((0, (8, 16)), (1, (8,))):
        carrier = Carrier(STORAGE, config.name, f"0-{stage}")
        part = shard(carrier.bring(trial_of(config), alive).folder / "checkpoint.pt", stage)
        for images_seen in moments:
            write_checkpoint({"images_seen": images_seen}, part, earlier(part))
            carrier.save(alive)
    go_to("second")
    there = Carrier(STORAGE, config.name, "1-0").bring(trial_of(config), alive).folder
    seen = {path.name: read_checkpoint(path)["images_seen"] for path in there.iterdir()}
    last = {"checkpoint.pt": 16, "checkpoint.stage1.pt": 8}
    assert seen == last | {"checkpoint.earlier.pt": 8}


def test_what_trials_share_is_made_once(config: SearchConfig, go_to: GoTo, store: Store) -> None:
    mirror = SearchFolder.of(STORAGE, config.name).mirror
    made = config.home / ".cache" / "digits" / "classifier.safetensors"
    made.parent.mkdir(parents=True)
    made.write_text("weights")
    made.with_suffix(".lock").touch()
    mirror.keep_cache()
    assert store.names() == {"team/.cache/digits/classifier.safetensors"}
    assert names(STORAGE) == [], "what is not a search is not shown as one"
    go_to("second")
    trial = Carrier(STORAGE, config.name, "0-0").bring(trial_of(config), alive)
    assert (trial.cache / "digits" / "classifier.safetensors").read_text() == "weights"


def test_a_bucket_that_takes_no_more_ends_the_wait(
    config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(config)
    carrier = Carrier(STORAGE, config.name, "0-0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "changed")
    with pytest.raises(Refused, match=r"SignatureDoesNotMatch$"):
        carrier.bring(trial_of(config), alive)


def test_where_all_nodes_share_the_storage_nothing_is_carried(small: Small) -> None:
    trial = trial_of(small())
    carrier = Carrier(None, "small")
    assert carrier.bring(trial, alive) is trial
    carrier.save(alive)
    carrier.clear()


def test_a_node_answers_a_probe_in_the_bucket(store: Store) -> None:
    with probing(STORAGE) as probe:
        answer(probe, f"{probe}-1")
        assert read(f"{probe}-1") == probe
        answer(f"{probe}-gone", f"{probe}-2")
        assert read(f"{probe}-2") is None
    assert store.names() == set()


def test_the_doctor_says_why_a_node_cannot_use_the_bucket(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with probing(STORAGE) as probe:
        here = look_around(probe)
        assert here.probe == probe
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
        there = look_around(probe)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.environment["AWS_ACCESS_KEY_ID"])
    (finding,) = compare("node 1", here, there)
    assert not finding.ok
    assert finding.says.startswith("cannot use the storage: storage must be a bucket that you may")
    assert finding.says.endswith("InvalidAccessKeyId")


WITHOUT_BOTO3 = f"""
import sys
sys.modules["boto3"] = sys.modules["botocore"] = None
from stepsearch.bucket import Bucket, S3Url
Bucket(S3Url("{STORAGE}")).names()
"""


def test_a_node_without_boto3_says_what_to_install() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_BOTO3], capture_output=True, text=True)
    assert run.stderr.endswith(f"must have boto3, got '{STORAGE}': pip install boto3\n")


def test_a_worker_that_never_had_a_trial_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It clears up at its end like the others, wherever it runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("the work of years")
    Carrier(STORAGE, "small", "0-0").clear()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
