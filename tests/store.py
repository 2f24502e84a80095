"""An S3 server as a process on loopback: moto, which checks signatures and rights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import boto3
import pytest

BUCKET = "searches"
_ALL = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


class Store:
    """A server with one bucket and one user, whose keys are in `environment`."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log = log.open("wb")
        self.start()
        keys = self._user()
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.client = self._client("s3", keys["AccessKeyId"], keys["SecretAccessKey"])
        self.client.create_bucket(Bucket=BUCKET)

    def enter(self, monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
        """Make this process, and what it starts, one on `machine` with the user's keys."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(machine))

    def empty(self) -> None:
        for key in self.names():
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def names(self) -> set[str]:
        listed = self.client.list_objects_v2(Bucket=BUCKET)
        return {entry["Key"] for entry in listed.get("Contents", ())}

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.wake()
        self.process.kill()
        self.process.wait()
        self._log.close()

    def start(self) -> None:
        """Also after it was killed, without its memory."""
        words = ["moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=self._log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
                return
            except (URLError, OSError):
                time.sleep(0.1)
        self.close()
        raise AssertionError(f"no S3 server at {self.endpoint}")

    def _user(self) -> dict[str, str]:
        """Who may use S3; from then on every request must be his."""
        iam = self._client("iam", "none", "none")
        iam.create_user(UserName="searcher")
        document = json.dumps({"Version": "2012-10-17", "Statement": _ALL})
        iam.put_user_policy(UserName="searcher", PolicyName="all", PolicyDocument=document)
        keys: dict[str, str] = iam.create_access_key(UserName="searcher")["AccessKey"]
        plain = {"Content-Type": "text/plain"}
        reset = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", b"0", plain)
        urllib.request.urlopen(reset, timeout=10).close()
        return keys

    def _client(self, service: str, key: str, secret: str) -> Any:
        return boto3.session.Session(key, secret).client(
            service, endpoint_url=self.endpoint, region_name="us-east-1"
        )
