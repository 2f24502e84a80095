"""Stop a running search of this machine from another terminal."""

from __future__ import annotations

import os
import signal
import socket
import time

from stepsearch.errors import UserError
from stepsearch.search.folder import SearchFolder

_POLL_S = 0.2


def cancel(folder: SearchFolder) -> None:
    """Do what Ctrl-C does to its driver, and wait until the driver has left.

    By SIGTERM, which a driver in the background of a script hears as well.
    Raises UserError unless the search is running on this host, as a process of ours.
    """
    name, owner = folder.path.name, folder.owner
    if owner is None:
        raise UserError(f"search {name!r} must be running: no driver has it")
    pid, host = owner
    if host != socket.gethostname():
        raise UserError(f"search {name!r} must be running on this host: {host} runs it")
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has just left, or is about to
    except PermissionError:
        raise UserError(
            f"search {name!r} must be yours: process {pid} is another user's"
        ) from None
    while folder.owner == owner:
        time.sleep(_POLL_S)
