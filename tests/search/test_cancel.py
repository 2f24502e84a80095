"""Whom `cancel` would stop; that it does so cleanly is in test_faults.py."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stepsearch.errors import UserError
from stepsearch.search.cancel import cancel
from stepsearch.search.folder import SearchFolder
from tests.search.conftest import Small


@pytest.fixture
def folder(small: Small) -> SearchFolder:
    config = small()
    return SearchFolder.create(config.folder, config)


def test_a_search_tells_who_runs_it_while_somebody_does(folder: SearchFolder) -> None:
    assert folder.owner is None
    with folder.locked():
        me = (os.getpid(), socket.gethostname())
        assert folder.owner == me
        with pytest.raises(UserError, match="must not be running already"), folder.locked():
            pass
        assert folder.owner == me, "one who came too late changes nothing"
    assert folder.owner is None


DRIVER = """
import signal, sys, time
from pathlib import Path
from stepsearch.search.folder import SearchFolder

signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = SearchFolder(Path(sys.argv[1]))
with folder.locked():
    try:
        print("running", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.5)
        (folder.path / "saved").touch()
"""


def test_it_interrupts_the_driver_and_waits_until_it_has_left(folder: SearchFolder) -> None:
    words = [sys.executable, "-c", DRIVER, str(folder.path)]
    path = {"PYTHONPATH": str(Path(cancel.__code__.co_filename).parents[2])}
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | path)
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"running\n"
        cancel(folder)
        assert (folder.path / "saved").exists()


def test_what_a_killed_driver_left_is_nobody(folder: SearchFolder) -> None:
    (folder.path / ".lock").write_text(f"1 {socket.gethostname()}\n")
    with pytest.raises(UserError, match=re.escape("'small' must be running: no driver has it")):
        cancel(folder)


def test_a_search_of_another_host_is_left_alone(folder: SearchFolder) -> None:
    with folder.locked():
        (folder.path / ".lock").write_text(f"{os.getpid()} elsewhere\n")
        with pytest.raises(UserError, match="must be running on this host: elsewhere runs it"):
            cancel(folder)
