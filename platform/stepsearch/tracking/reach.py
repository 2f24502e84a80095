"""Whether this machine reaches an MLflow server, without MLflow and without its credentials."""

from __future__ import annotations

import urllib.request
from urllib.error import HTTPError

from stepsearch.tracking.client import reason

TIMEOUT_S = 10.0


def obstacle(uri: str) -> str | None:
    """What keeps this machine from the server at `uri` (http or https); None if it answers."""
    try:
        urllib.request.urlopen(uri, timeout=TIMEOUT_S).close()  # noqa: S310
    except HTTPError:
        return None  # whom it lets in is another question
    except OSError as error:
        return reason(error)
    return None
