"""Of the drivers of one search, one holds it; against a real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from stepsearch.bucket import Bucket, Refused, S3Url
from stepsearch.errors import StepsearchError, UserError
from stepsearch.search.lease import NAME, Lease, _place
from tests.store import BUCKET, Store

SECONDS = 2.0


@pytest.fixture
def bucket(store: Store) -> Bucket:
    return Bucket(S3Url(f"s3://{BUCKET}/small"))


def elsewhere(bucket: Bucket, pid: int = 1, place: str = "another boot") -> None:
    """The lease of a driver that is gone, or not of this machine."""
    owner = {"host": "far", "place": place, "pid": pid, "token": "his", "count": 1}
    bucket.write(NAME, json.dumps(owner).encode())


def test_a_second_driver_is_refused_while_the_first_lives(bucket: Bucket) -> None:
    with Lease(bucket, SECONDS).held() as lease:
        with (
            pytest.raises(UserError, match=r"^search 'small' must not be running already: a driv"),
            Lease(bucket, SECONDS).held(),
        ):
            pass
        lease.check()
    assert bucket.names() == {}


def test_a_lease_that_is_not_renewed_ends(bucket: Bucket) -> None:
    elsewhere(bucket)
    begun = time.monotonic()
    with Lease(bucket, SECONDS).held():
        assert time.monotonic() - begun > SECONDS / 2


def test_a_dead_process_of_this_machine_is_not_waited_for(bucket: Bucket) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    elsewhere(bucket, dead.pid, _place())
    with Lease(bucket, 600).held() as lease:
        lease.check()


def test_a_lease_is_renewed_again_after_the_store_refused_it(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease(bucket, SECONDS).held() as lease:
        with monkeypatch.context() as forgotten:
            forgotten.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
            with pytest.raises(Refused):
                bucket.names()
            time.sleep(SECONDS / 2)
        time.sleep(SECONDS / 2)
        with (
            pytest.raises(UserError, match="must not be running already"),
            Lease(bucket, 2 * SECONDS).held(),
        ):
            pass
        lease.check()


def test_who_was_replaced_writes_no_more_and_leaves_the_others_lease_alone(
    bucket: Bucket,
) -> None:
    with Lease(bucket, SECONDS).held() as lease:
        elsewhere(bucket)
        time.sleep(SECONDS / 2)
        with pytest.raises(StepsearchError, match="another driver has taken the search over"):
            lease.check()
    assert bucket.names().keys() == {NAME}
