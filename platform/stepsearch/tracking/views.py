"""Links into MLflow's page: the trials of one search as a table, best first, and as charts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from stepsearch.tracking.tags import OUTCOME, ROLE, SEARCH


@dataclass(frozen=True)
class Views:
    """What the page needs to know about a search."""

    experiment_id: str
    search_id: str
    metric: str
    direction: str
    params: Sequence[str] = ()

    @property
    def filter(self) -> str:
        """The search box's filter for the trials of this search."""
        return f"tags.`{SEARCH}` = '{self.search_id}' AND tags.`{ROLE}` != 'search'"

    @property
    def table(self) -> str:
        """Link to the table of the trials, to be appended to the server's address."""
        return self._runs(viewStateShareKey=self.search_id)

    @property
    def charts(self) -> str:
        """Link to the charts of the trials, to be appended to the server's address."""
        facets = {key: str(value).lower() for key, value in self._order.items()}
        return self._runs(compareRunsMode="CHART", searchFilter=self.filter, **facets)

    def experiment_tags(self) -> dict[str, str]:
        """What MLflow's page reads from the experiment: the quality, and the table's view."""
        return {
            "mlflow.experiment.primaryMetric.name": self.metric,
            "mlflow.experiment.primaryMetric.greaterIsBetter": str(self.direction == "maximize"),
            f"mlflow.sharedViewState.{self.search_id}": json.dumps(self._table_state()),
        }

    def note(self, search: str) -> str:
        """Markdown for the search's own page: what it is and how to compare its trials."""
        better = "lower" if self.direction == "minimize" else "higher"
        return f"""\
**{search}** tries timestep strategies. Compare its trials as a [table]({self.table}) or in
[charts]({self.charts}), or paste this into the search box of the experiment:

    {self.filter}

`{self.metric}` is the quality ({better} is better). A metric's step is the number of training
images seen. The trial of role `baseline` draws timesteps uniformly; it is the one to beat.

How a trial ended is in the tag `outcome`, and in its status:

- *finished* (Finished): trained with its whole budget
- *pruned* (Killed): stopped early by the trial scheduler
- *interrupted* (Killed): the search was stopped; a resume goes on in the same run
- *diverged* (Failed): a loss or a metric became NaN or infinite
- *error* (Failed): an exception; its message is in the tag `reason`
"""

    def _table_state(self) -> dict[str, object]:
        """A shared view of the page; it fills in what the state leaves open."""
        params = [f"params.`{name}`" for name in self.params]
        columns = [*params, f"metrics.`{self.metric}`", f"tags.`{ROLE}`", f"tags.`{OUTCOME}`"]
        return {
            "searchFilter": self.filter,
            **self._order,
            "selectedColumns": [*columns, "attributes.`Duration`"],
        }

    @property
    def _order(self) -> dict[str, str | bool]:
        return {
            "orderByKey": f"metrics.`{self.metric}`",
            "orderByAsc": self.direction == "minimize",
        }

    def _runs(self, **query: str) -> str:
        # Without the workflow the page opens an empty view of language model traces.
        text = urlencode({"workflowType": "machine_learning", **query}, quote_via=quote)
        return f"#/experiments/{self.experiment_id}/runs?{text}"
