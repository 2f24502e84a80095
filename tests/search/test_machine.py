"""What a machine is said to have, against Ray itself and the real disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepsearch.search.machine import existing, free_bytes, probe_file

COUNT = """
import json
from stepsearch import cluster
from stepsearch.search.machine import local_resources

before = local_resources()
with cluster.connect("local"):
    counted, during = cluster.resources(), local_resources()
print(json.dumps([before, {k: counted.get(k, 0.0) for k in before}, during == counted]))
"""


@pytest.mark.slow
def test_local_resources_are_what_a_local_cluster_then_has() -> None:
    out = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, counted, same_while_it_runs = json.loads(out.stdout)
    assert before == counted
    assert same_while_it_runs


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert existing(tmp_path / "not" / "yet") == tmp_path
    assert free_bytes(tmp_path / "not" / "yet") > 0


def test_the_probe_file_is_gone_even_after_an_error(tmp_path: Path) -> None:
    def look() -> None:
        with probe_file(tmp_path) as probe:
            raise KeyError(probe.read_text())

    with pytest.raises(KeyError, match=r"\.stepsearch-"):
        look()
    assert list(tmp_path.iterdir()) == []
