"""The trained classifier on disk, so that a data set's judge is trained once and then shared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    build_classifier,
    train_classifier,
)

logger = logging.getLogger(__name__)

# Counts up when the network or its training changes, so that old files are trained anew.
_VERSION = 1

UNUSABLE = (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError)
"""What reading a damaged file raises."""


def cache_file(config: ClassifierConfig, fingerprint: str, cache: Path) -> Path:
    """`cache`/<fingerprint of the data set>/classifier-<hash of the configuration>.safetensors"""
    key = hashlib.sha256(f"{_VERSION} {config.model_dump_json()}".encode()).hexdigest()
    return cache / fingerprint / f"classifier-{key[:16]}.safetensors"


def load_or_train(
    config: ClassifierConfig,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    file: Path,
) -> tuple[Classifier, float]:
    """The classifier in `file` and its held-out accuracy; trained and stored if it is not there.

    `train` and `held_out` are (images, labels). A file that cannot be read is replaced. Of several
    processes one trains and the others wait for it; where the file system knows no locks each of
    them trains, writes a file of its own and moves it into place.
    Raises UserError when `file` cannot be written.
    """
    with one_at_a_time(file):
        try:
            return _load(config, train, file)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except UNUSABLE as error:
            logger.warning(
                "the cached classifier %s is unusable and is trained anew: %s", file, error
            )
        classifier = train_classifier(config, *train)
        accuracy = classifier.accuracy(*held_out)
        facts = {"version": _VERSION, "accuracy": accuracy, "config": config.model_dump()}
        store(dict(classifier.state_dict()), facts, file)
        return classifier, accuracy


@contextlib.contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Alone with `file` on this machine; without a lock where there can be none."""
    lock = FileLock(file.with_suffix(".lock"))
    with contextlib.suppress(OSError, NotImplementedError):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load(
    config: ClassifierConfig, train: tuple[Tensor, Tensor], file: Path
) -> tuple[Classifier, float]:
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        facts = json.loads(stored.metadata()["stepsearch"])
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("it holds values that are not finite")
    classifier = build_classifier(config, *train)
    classifier.load_state_dict(tensors)
    return classifier.eval(), float(facts["accuracy"])


def store(tensors: dict[str, Tensor], facts: dict[str, object], file: Path) -> None:
    """Write `file` whole or not at all. Raises UserError when it cannot be written."""
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(save(tensors, {"stepsearch": json.dumps(facts)}))
        os.replace(part, file)
    except OSError as error:
        raise UserError(f"cache must be a writable folder, got {file.parent} ({error})") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
