"""Which code a search needs; that a cluster gets it is in search/test_submit.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import SpeedSpace
from stepsearch import shipping
from trainers import trainer

PACKAGES = ("run_search", "search_spaces", "stepsearch", "trainers")


class Own:
    """Of a script of one's own."""


def test_it_is_what_the_space_and_the_trainer_are_made_of() -> None:
    found = shipping.packages_of(SpeedSpace(), trainer())
    assert found == ("stepsearch", "search_spaces", "trainers")
    Own.__module__ = "__main__"
    assert shipping.packages_of(Own()) == ("stepsearch",), "Ray sends that by itself"


def test_a_changed_file_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    missing = shipping.fingerprint("a_package")
    (tmp_path / "a_package").mkdir()
    file = tmp_path / "a_package" / "__init__.py"
    file.write_text("value = 1")
    one = shipping.fingerprint("a_package")
    file.write_text("value = 2")
    assert len({missing, one, shipping.fingerprint("a_package")}) == 3


def test_what_is_copied_is_code_side_by_side_and_nothing_else(tmp_path: Path) -> None:
    shipping.copy(PACKAGES, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run_search.py", *PACKAGES[1:]}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".py", ".yaml"}
    assert sum(path.stat().st_size for path in files) < 2 * 10**6
