"""Where a study lies: sqlite files, and a PostgreSQL server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest

from stepsearch.errors import UserError
from stepsearch.study import (
    Objective,
    Outcome,
    RandomConfig,
    Space,
    StoredStudy,
    Study,
    TpeConfig,
)
from stepsearch.study import storage as backend

Make = Callable[..., Study]


@pytest.mark.parametrize("folder", ["plain", "with space", "per%20cent", "what?", "h#sh", "{br}"])
def test_a_path_may_hold_any_character(folder: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / folder / "study.db"
    path.parent.mkdir()
    make(storage=path, name="search")
    assert path.is_file()
    Study.open(path, "search").close()


def test_a_relative_path_is_found_again_from_elsewhere(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Space
) -> None:
    monkeypatch.chdir(tmp_path)
    study = make(storage="study.db")
    monkeypatch.chdir(os.sep)
    assert study.ask(line) is not None
    assert (tmp_path / "study.db").is_file()


def test_a_name_that_exists_is_refused_with_an_offer_to_resume(make: Make) -> None:
    make(name="search")
    with pytest.raises(UserError, match=r"study must have a new name \(or be resumed\), got 'sea"):
        make(name="search")


def test_an_unknown_name_is_answered_with_those_there_are(make: Make, tmp_path: Path) -> None:
    make(name="search")
    with pytest.raises(UserError, match=r"stored \('first', 'search'\), got 'serach'"):
        Study.open(tmp_path / "study.db", "serach")


def test_opening_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"storage must be the file of a study, got .*study.db"):
        Study.open(tmp_path / "study.db", "search")
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_another_program_is_refused(tmp_path: Path, make: Make) -> None:
    study = make()
    study._study.set_user_attr("stepsearch:settings", None)
    with pytest.raises(UserError, match=r"study 'search-0'"):
        Study.open(tmp_path / "study.db", study.name)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("missing/study.db", r"storage must lie in a folder that exists, got /.*missing/study.db"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", r"opens, got 127.0.0.1:1/x: .*refused"),
        ("oracle+no://me:secret@host/x", r"storage must be a database that opens, got host/x: "),
        ("postgresql+pg8000://me:secret@host/x", r"got host/x: its driver is not installed"),
        ("nonsense://", r"storage must be a database that opens"),
    ],
)
def test_a_storage_that_does_not_open_is_named_without_its_password(
    storage: str, message: str
) -> None:
    if "psycopg" in storage:
        pytest.importorskip("psycopg", reason="needs a driver: pip install 'psycopg[binary]'")
    with pytest.raises(UserError, match=message) as caught:
        Study.create(storage, "search", [Objective("fd")], RandomConfig(), 0)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("not a database, though it is long enough to look like one to sqlite")
    with pytest.raises(UserError, match=r"a database that opens, got .*file is not a database"):
        Study.open(path, "search")


@pytest.mark.parametrize(
    ("local", "beside"), [(True, ["study.db-shm", "study.db-wal"]), (False, [])]
)
def test_sqlite_keeps_a_write_ahead_log_on_a_local_disk_only(
    local: bool, beside: list[str], tmp_path: Path, line: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_is_local", lambda folder: local)
    path = tmp_path / "study.db"
    with Study.create(path, "search", [Objective("fd")], RandomConfig(), 0) as study:
        study.ask(line)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["study.db", *beside]
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def not_to_be_written(folder: Path) -> Iterator[None]:
    """A folder of somebody else's; root, who may write in any, is nobody meanwhile."""
    folder.chmod(0o555)
    me, nobody = os.geteuid(), 65534
    os.seteuid(me or nobody)
    try:
        yield
    finally:
        os.seteuid(me)
        folder.chmod(0o755)


@pytest.mark.parametrize("running", [False, True])
def test_who_may_not_write_may_look(running: bool, line: Space) -> None:
    with TemporaryDirectory(prefix="what? ") as folder:  # nobody may enter pytest's own
        path = Path(folder) / "study.db"
        study = Study.create(path, "search", [Objective("fd")], RandomConfig(), 0)
        study.ask(line)
        if not running:
            study.close()
        StoredStudy.look(path, "search").close()  # imports, which nobody may not
        before = sorted(Path(folder).iterdir())
        with not_to_be_written(Path(folder)), StoredStudy.look(path, "search") as seen:
            assert [record.number for record in seen.trials()] == [0]
            assert sorted(Path(folder).iterdir()) == before
        study.close()


@pytest.mark.parametrize("objectives", [("fd",), ("fd", "kid")])
def test_postgresql_keeps_a_study_as_sqlite_does(
    objectives: tuple[str, ...], postgres: Any, conditional: Space, tmp_path: Path
) -> None:
    records = []
    name = "_".join(objectives)
    for storage in (tmp_path / "study.db", postgres.database(f"study_{name}")):
        found = [Objective(o) for o in objectives]
        with Study.create(storage, name, found, TpeConfig(n_startup_trials=3), 0) as study:
            study.enqueue({"family": "speed", "speed.tau": 612, "speed.k": 4.125}, label="paper")
            asked = [trial.number for _ in range(6) if (trial := study.ask(conditional))]
            for number in asked:
                study.report(number, 100, 3.0)
            for number, outcome in zip(asked, get_args(Outcome), strict=False):
                study.tell(number, outcome, [1 / 3, 2 / 3][: len(objectives)], "asha")
        with pytest.raises(UserError, match="or be resumed"):
            Study.create(storage, name, found, TpeConfig(), 0)
        with Study.open(storage, name) as resumed:
            assert [p.number for p in resumed.unfinished()] == asked[4:]
            resumed.tell(asked[4], "finished", [0.1, 0.2][: len(objectives)])
            resumed.ask(conditional)
            records.append(resumed.trials())
    assert records[0] == records[1]
