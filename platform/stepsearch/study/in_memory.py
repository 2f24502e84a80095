"""A study's sqlite file as it is now, read without SQLAlchemy.

Optuna's own storage imports SQLAlchemy and Alembic, which takes longer than all else that a look
at a search does.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stepsearch.study.storage import check_there, open_to_read

KNOWN = [("v3.2.0.a",)]
"""The version of Optuna's tables that this reads."""
_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_distribution = lru_cache(json_to_distribution)


def in_memory(file: Path) -> InMemoryStorage | None:
    """All studies in the file; None if another Optuna made its tables.

    Raises UserError if there is no such file, and whatever a damaged one leads to.
    """
    check_there(file)
    with closing(open_to_read(file.absolute())) as connection:
        connection.execute("BEGIN")  # one moment, though the search goes on
        if connection.execute("SELECT version_num FROM alembic_version").fetchall() != KNOWN:
            return None
        storage = InMemoryStorage()
        for study, name in connection.execute("SELECT study_id, study_name FROM studies"):
            _copy(connection, study, name, storage)
        return storage


def _copy(connection: sqlite3.Connection, study: int, name: str, storage: InMemoryStorage) -> None:
    def rows(columns: str, table: str, order: str) -> list[Any]:
        query = f"SELECT {columns} FROM {table} WHERE study_id = ? ORDER BY {order}"  # noqa: S608
        return connection.execute(query, (study,)).fetchall()

    def of_trials(columns: str, table: str, order: str) -> dict[int, list[Any]]:
        found = defaultdict(list)
        for trial, *row in rows(f"trial_id, {columns}", f"{table} NATURAL JOIN trials", order):
            found[trial].append(row)
        return found

    directions = [StudyDirection[d] for (d,) in rows("direction", "study_directions", "objective")]
    copy = storage.create_new_study(directions, name)
    for key, value in rows("key, value_json", "study_user_attributes", "study_user_attribute_id"):
        storage.set_study_user_attr(copy, key, json.loads(value))
    params = of_trials("param_name, distribution_json, param_value", "trial_params", "param_id")
    values = of_trials("objective, value, value_type", "trial_values", "objective")
    steps = of_trials(
        "step, intermediate_value, intermediate_value_type", "trial_intermediate_values", "step"
    )
    user = of_trials("key, value_json", "trial_user_attributes", "trial_user_attribute_id")
    system = of_trials("key, value_json", "trial_system_attributes", "trial_system_attribute_id")
    trials = rows("trial_id, number, state, datetime_start, datetime_complete", "trials", "number")
    for trial, number, state, start, complete in trials:
        drawn = [(name, _distribution(text), value) for name, text, value in params[trial]]
        storage.create_new_trial(
            copy,
            FrozenTrial(
                number=number,
                state=TrialState[state],
                value=None,
                values=list(_floats(values[trial]).values()) or None,
                datetime_start=_time(start),
                datetime_complete=_time(complete),
                params={name: over.to_external_repr(value) for name, over, value in drawn},
                distributions={name: over for name, over, _ in drawn},
                user_attrs={key: json.loads(value) for key, value in user[trial]},
                system_attrs={key: json.loads(value) for key, value in system[trial]},
                intermediate_values=_floats(steps[trial]),
                trial_id=trial,
            ),
        )


def _floats(rows: Iterable[tuple[int, Any, str]]) -> dict[int, float]:
    return {at: _NOT_FINITE[kind] if kind in _NOT_FINITE else float(v) for at, v, kind in rows}


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
