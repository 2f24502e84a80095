"""How a search is read: from a file, from its folder, or on another machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepsearch.commands.options import console

if TYPE_CHECKING:
    from stepsearch.config import Place
    from stepsearch.search.config import SearchConfig
    from stepsearch.search.remote import Remote


@dataclass(frozen=True)
class Reader:
    """Reads searches over the spaces, and with the trainers, that there are.

    run_search.py knows them; every command finds its reader in the `obj` of its context.
    """

    search: Callable[[], type[SearchConfig]]
    """The type of all searches; it is asked for late, since that imports what they are made of."""
    default: Path
    """The file of the search that is meant where none is named."""
    curves: Path
    """The learning curves that `simulate` replays where none are named."""
    code: tuple[str, ...]
    """The packages that a search needs on a cluster."""

    def load(self, file: Path | None, sets: list[str]) -> SearchConfig:
        """The search that a YAML file describes, with `sets` laid over it."""
        return self.parse(self.read(file, sets))

    def find(self, name: str, storage: str | Path) -> SearchConfig:
        """What a search was launched with, ready to be run."""
        return self.parse(_recorded(name, storage))

    def read(self, file: Path | None, sets: list[str]) -> dict[str, Any]:
        """The keys of a YAML file with `sets` laid over them."""
        from stepsearch.config import merge
        from stepsearch.search.files import assignments, read_yaml

        return merge(read_yaml(self.default if file is None else file), assignments(sets))

    def parse(self, data: dict[str, Any]) -> SearchConfig:
        """The search that `data` describes. Raises UserError."""
        from stepsearch.config import parse

        return parse(self.search(), data)

    def remote(self, address: str | None) -> Remote:
        """The searches on another machine."""
        from stepsearch.search.remote import Remote

        return Remote(address, self.code, console)


def recorded(name: str, storage: str | Path) -> SearchConfig:
    """What a search was launched with; its space and trainer are plain data, nothing is loaded."""
    from stepsearch.config import parse
    from stepsearch.search.config import SearchConfig

    return parse(SearchConfig, _recorded(name, storage))


def place(storage: str | Path) -> Place:
    """The folder or the bucket that `--storage` names. Raises UserError."""
    from stepsearch.bucket import S3Url
    from stepsearch.errors import UserError

    if "://" not in str(storage):
        return Path(storage).absolute()
    try:
        return S3Url.parse(str(storage))
    except ValueError as error:
        raise UserError(str(error)) from None


def is_elsewhere(address: str | None) -> bool:
    """Whether `--address` names another machine."""
    return address not in (None, "local")


def _recorded(name: str, storage: str | Path) -> dict[str, Any]:
    from stepsearch.search.folder import SearchFolder

    found = place(storage)
    folder = SearchFolder.find(found, name)
    return folder.read_config() | {"storage": found}  # it may have been moved
