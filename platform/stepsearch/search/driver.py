"""The driver: the one process that runs a search from its configuration to its leaderboard."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress

from stepsearch import cluster, tracking
from stepsearch.errors import StepsearchError, UserError
from stepsearch.search.agenda import Agenda
from stepsearch.search.amounts import check_budget, limits
from stepsearch.search.board import Board, Entry, Silent, View, describe
from stepsearch.search.config import SearchConfig
from stepsearch.search.files import replace as write_anew
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.search.interruptions import meanwhile, stop_on_signal
from stepsearch.search.leaderboard import PROPOSAL, Leaderboard, leaderboard
from stepsearch.search.reconcile import compare
from stepsearch.search.recorder import Recorder
from stepsearch.search.result import SearchResult
from stepsearch.search.spending import Spending
from stepsearch.search.summary import log_summary
from stepsearch.search.tracked import closed, deliver, open_tracker
from stepsearch.search.trial import Trial
from stepsearch.search.warm_start import Earlier
from stepsearch.search.watch import watching
from stepsearch.shipping import packages_of
from stepsearch.study import Proposal, Study
from stepsearch.tracking import Tracker


def launch(config: SearchConfig, view: View | None = None) -> SearchResult:
    """Run a new search and return what it found.

    The first Ctrl-C (or SIGTERM) stops it cleanly and returns; the second one raises
    KeyboardInterrupt. Raises UserError, with nothing left behind, for a wrong configuration.
    """
    config.check_space()
    there = SearchFolder.of(config.storage, config.name)
    there.refresh()
    with ExitStack() as opened:
        connection = opened.enter_context(cluster.connecting(config.cluster, _code(config)))
        config.check_trainer()
        config = config.resolved()
        earlier = Earlier.of(config)
        data = config.trainer.facts().fingerprint
        folder = SearchFolder.create(there.path, config, there.mirror, data)
        undo = opened.enter_context(ExitStack())
        undo.callback(folder.mirror.remove)
        opened.enter_context(folder.locked())
        study = Study.create(
            folder.study,
            config.name,
            config.objectives,
            config.optuna_sampler,
            config.seed,
            constraints=tuple(config.guards or ()),
        )
        shown = view or Silent()
        driver = _Driver(opened, connection, config, folder, study, shown)
        driver.begin(earlier)
        undo.pop_all()
        return driver.run()


def resume(config: SearchConfig, view: View | None = None) -> SearchResult:
    """Go on with an interrupted search, from the last checkpoint of each unfinished trial.

    A search that has nothing left to do is only read, and what it leaves at its end, or what waits
    for MLflow, is delivered.
    `config` may have a larger budget than before.
    """
    config.check_trainer()
    folder = SearchFolder.find(config.storage, config.name)
    with ExitStack() as opened:
        opened.enter_context(folder.locked())
        extended = folder.extend(config.budget.trials, limits(config.budget))
        study = Study.open(folder.study, config.name)
        found = SearchResult.read(config)
        over = found.ledger.ended is not None and not extended
        if over or Agenda(config, study, lambda: found.leaderboard).complete:
            study.close()
            return _closed_late(found)
        folder.check_data(config.trainer.facts().fingerprint)
        connection = opened.enter_context(cluster.connecting(config.cluster, _code(config)))
        silent = view or Silent()
        driver = _Driver(opened, connection, config, folder, study, silent, resumed=True)
        if not folder.trials.exists():  # its launch may have been killed before all was queued
            driver.begin(Earlier.of(config))
        return driver.run()


def _closed_late(found: SearchResult) -> SearchResult:
    """A search whose last driver may have been killed before it left everything behind."""
    if found.folder.is_closed(len(found.records)):
        return deliver(found) if found.waiting else found
    return _close(open_tracker(found.config, found.folder, resumed=True), found, None)


def _close(tracker: Tracker, result: SearchResult, seconds: float | None) -> SearchResult:
    """Leave behind what a search does at its end, or where it was interrupted."""
    log_summary(tracker, result, seconds)
    result.folder.mirror.keep_ends()
    if not result.interrupted:
        result.folder.close(len(result.records))
    return closed(tracker, result)


def _code(config: SearchConfig) -> tuple[str, ...]:
    """What the nodes of its cluster must be able to import."""
    return packages_of(config.space, config.trainer)


class _Driver:
    """What a running search holds; `opened` closes it all again, the last first."""

    def __init__(
        self,
        opened: ExitStack,
        connection: Future[None],
        config: SearchConfig,
        folder: SearchFolder,
        study: Study,
        view: View,
        *,
        resumed: bool = False,
    ) -> None:
        self._begun = time.monotonic()
        self._config, self._folder, self._view = config, folder, view
        self._study = opened.enter_context(study)
        tracking.load()  # while Ray starts
        connection.result()
        from stepsearch.search.engine import Engine  # imports Ray, whose settings are made now
        from stepsearch.search.shared_storage import check_shared

        check_shared(folder.mirror.place)
        shape = cluster.fit_lanes(config.lanes, cluster.resources())
        check_budget(config.budget, config.prices, shape)
        self._shape, self._engine = shape, Engine(config, shape, folder)
        self._spending = Spending(
            folder.spent, config.budget, config.prices, shape, lambda: self._engine.holds
        )
        opened.callback(self._spending.write)  # when the lanes have left
        opened.enter_context(self._engine)
        self._tracker = opened.enter_context(open_tracker(config, folder, resumed=resumed))
        self._history = History(folder.history)
        self._past = tuple(record for record in study.trials() if record.outcome)
        self.agenda = Agenda(config, study, self._standings, self._spending)

    def begin(self, earlier: Earlier | None) -> None:
        """Queue what a new search begins with; what is queued already is left alone."""
        self.agenda.enqueue_fixed_points(earlier)
        if earlier is not None:
            self.agenda.warm_start(earlier)
            self._view.say(f"warm start: {earlier}")

    def run(self) -> SearchResult:
        """From the first trial to the last record."""
        config, engine, folder = self._config, self._engine, self._folder
        board = self._board()
        self._view.show(board)
        try:
            self._start_search()
            if folder.mirror.is_copy:  # the lanes take what all trials share from the storage
                self._prepare()
            recorder = Recorder(
                self._study,
                self._tracker,
                self._history,
                board,
                self._view,
                config.guards or {},
                self._spending,
                folder.mirror,
            )
            with (
                stop_on_signal(engine.pause, self._view),
                watching(engine, self._spending, board, self._view),
                meanwhile(self._work_beside, engine.pause),
            ):
                self._run_trials(recorder)
            recorder.close()
            self._spending.close(None if engine.paused else self.agenda.ended)
        finally:
            self._view.close()
        if engine.full:
            self._tracker.end_search("interrupted")
            raise StepsearchError(
                f"the search paused itself, its storage takes no more ({engine.full}): "
                f"mend that, then `resume {config.name}` goes on"
            )
        result = SearchResult.read(config, interrupted=engine.paused)
        return _close(self._tracker, result, time.monotonic() - self._begun)

    def _run_trials(self, recorder: Recorder) -> None:
        """To the end, or until a pause. An engine that dies is started anew: the study knows what
        is left. Raises StepsearchError if it dies again before the next report."""
        reports = -1
        while not self._engine.run(self.agenda, recorder, self._trial, self._study.trials()):
            if self._engine.paused:
                return
            if reports == len(self._history):
                raise StepsearchError(
                    "the engine died twice without a report between: see Ray's logs"
                    f" (`resume {self._config.name}` goes on)"
                )
            reports = len(self._history)
            self._view.say("a part of the engine died: it is started again")
            self._engine.restart()
            self.agenda = Agenda(self._config, self._study, self._standings, self._spending)

    def _work_beside(self) -> None:
        """What can wait until trials train. They need what they share at their first milestone
        only, and the lanes the CPUs until then."""
        if not self._engine.has_begun():
            return
        if not self._folder.mirror.is_copy:
            self._prepare()
        if self._past:
            self._catch_up()

    def _prepare(self) -> None:
        """Make what all trials share."""
        self._folder.mirror.bring_cache()
        prepared = self._config.trainer.prepare(self._folder.cache)
        self._folder.mirror.keep_cache()
        self._tracker.log(self._tracker.search, prepared, step=0)

    def _catch_up(self) -> None:
        """Tell MLflow what an earlier driver did not come to tell of trials that have ended."""
        with suppress(UserError):  # MLflow is away or behind: `reconcile` can be asked later
            for found in compare(self._config, self._folder, self._past, self._tracker):
                self._view.say(str(found))

    def _standings(self) -> Leaderboard:
        config = self._config
        return leaderboard(
            self._study.trials(), self._history, config.primary, config.guards or {}
        )

    def _trial(self, proposal: Proposal) -> Trial:
        """A proposal as a lane needs it; its folder is there when this returns."""
        folder = self._folder.trial(proposal.number)
        folder.mkdir(parents=True, exist_ok=True)
        return Trial(
            number=proposal.number,
            config=self._config.trainer_for(proposal.values),
            seed=self._config.seed + proposal.attrs.get("seed", 0),
            milestones=self._config.budget.milestones(),
            folder=folder,
            cache=self._folder.cache,
        )

    def _board(self) -> Board:
        """The board with the trials that an earlier driver has ended."""
        config = self._config
        board = Board(
            name=config.name,
            metric=config.primary.name,
            minimize=config.primary.direction == "minimize",
            budget=config.budget.images,
            total=self.agenda.total,
            milestones=config.budget.milestones(),
            message="starting the lanes",
        )
        for record in self._study.trials():
            if record.outcome is None:
                continue
            label = record.attrs.get("label") or describe(record.params)
            curve = self._history.curve(record.number, board.metric)
            last = max(curve, default=0)
            board.entries[record.number] = Entry(
                record.number,
                label,
                record.attrs.get("role", PROPOSAL),
                record.outcome,
                last,
                curve.get(last),
            )
        board.spent_share = self._spending.share
        board.share_before = board.share_done
        return board

    def _start_search(self) -> None:
        config = self._config
        self._tracker.start_search(
            config.name,
            {
                "space": config.space.kind,
                "trainer": config.trainer.kind,
                "images": config.budget.images,
                "optuna_sampler": config.optuna_sampler.kind,
                "trial_scheduler": config.trial_scheduler.kind,
                "seed": config.seed,
                "workers": self._shape.workers,
            },
            # Tags: a search can be given more trials and another cluster has room for other lanes,
            # and MLflow's parameters never change.
            tags={
                "folder": str(self._folder.path),
                "trials": str(config.budget.trials),
                "lanes": str(self._shape.count),
            }
            | ({"warm_start": config.warm_start} if config.warm_start else {}),
            config=config.model_dump(mode="json"),
        )
        if self._tracker.page is not None:
            write_anew(self._folder.page, self._tracker.page)
