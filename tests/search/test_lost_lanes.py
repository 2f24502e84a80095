"""The dispatcher's protocol when a trial or its lane is in trouble: lost, hung, sent home."""

from __future__ import annotations

import asyncio

import pytest

from stepsearch.errors import StepsearchError
from stepsearch.search.dispatcher import Dispatcher
from tests.search.test_dispatcher import (
    GROUP,
    HERE,
    OTHER,
    SECOND,
    offer,
    on_a_lane,
    play,
    trial,
    waits,
)

pytestmark = pytest.mark.timeout(60)


def test_a_lost_worker_group_gets_its_trial_back_until_the_retries_are_spent() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        assert await dispatcher.next_trial(SECOND, 0, HERE) == trial(0)
        waiting = await waits(dispatcher.next_trial((0, "third"), 0, HERE))
        result = await dispatcher.result(0, position=0)
        assert result["outcome"] == "error"
        assert result["reason"] == "its Ray Train worker died"
        waiting.cancel()

    play(scene())


def test_a_trial_that_failed_goes_to_whichever_lane_is_free() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=2, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, "error", "ValueError: odd")
        assert await dispatcher.next_trial((1, "other"), 0, HERE) == trial(0)
        await dispatcher.leave((1, "other"), 0, "error", "KeyError: odder")
        assert (await dispatcher.result(0, 0))["reason"] == "KeyError: odder"

    play(scene())


def test_only_the_first_worker_of_a_group_says_why_it_left() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, "error", "first")
        await dispatcher.leave(GROUP, 0, "error", "second")
        assert (await dispatcher.result(0, 0))["reason"] == "first"

    play(scene())


def test_the_trial_of_a_lost_lane_goes_to_another_and_the_old_workers_are_not_heard() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=2, metric="fd")
        await on_a_lane(dispatcher)
        assert await dispatcher.drop(0, "its node died") is True
        assert await dispatcher.drop(0, "again") is False
        assert await dispatcher.next_trial(OTHER, 0, HERE) == trial(0)
        for late in (dispatcher.tick(GROUP, 0, 5), dispatcher.report(GROUP, 0, {"fd": 1.0}, 10)):
            with pytest.raises(StepsearchError, match="trial 0 has gone to another lane"):
                await late
        await dispatcher.leave(GROUP, 0, "error", "late")
        assert await dispatcher.next_trial(GROUP, 1, HERE) is None
        assert await dispatcher.tick(OTHER, 0, 5) is True

    play(scene())


def test_a_trial_leaves_a_node_that_is_about_to_go_and_that_is_no_failure() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=2, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.vacate({HERE})
        assert await dispatcher.tick(GROUP, 0, 5) is False
        await dispatcher.leave(GROUP, 0, None, None)
        with pytest.raises(StepsearchError, match="the node is about to go"):
            await dispatcher.next_trial(GROUP, 1, HERE)
        assert await dispatcher.next_trial(OTHER, 0, "another node") == trial(0)
        assert await dispatcher.tick(OTHER, 0, 6) is True

    play(scene())


def test_a_trial_whose_node_went_before_it_could_leave_has_not_failed_either() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=2, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.vacate({HERE})
        await dispatcher.drop(0, "its node died")
        assert await dispatcher.next_trial(OTHER, 0, "another node") == trial(0)

    play(scene())


def test_a_lane_is_silent_when_its_trial_says_nothing_unless_it_waits_for_tune() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        assert await dispatcher.silent(0) == []
        await on_a_lane(dispatcher)
        await asyncio.sleep(0.02)
        assert await dispatcher.silent(0.01) == [0]
        assert await dispatcher.silent(10) == []
        report = await waits(dispatcher.report(GROUP, 0, {"fd": 3.0}, 10))
        await asyncio.sleep(0.02)
        assert await dispatcher.silent(0.01) == []
        undecided = asyncio.create_task(dispatcher.result(0, position=1))
        assert await report is True
        await asyncio.sleep(0.02)
        assert await dispatcher.silent(0.01) == [0]
        undecided.cancel()

    play(scene())


def test_a_trial_that_knows_how_to_do_better_is_tried_again_at_no_cost() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, "again", "out of memory with 64 images")
        assert await dispatcher.next_trial(SECOND, 0, HERE) == trial(0)
        await dispatcher.leave(SECOND, 0, "again", "out of memory with 32 images")
        assert await dispatcher.next_trial((0, "third"), 0, HERE) == trial(0)

    play(scene())


def test_a_trial_that_needs_more_memory_than_there_is_fails_at_once() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=3, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, "out_of_memory", "out of memory with 1 image")
        result = await dispatcher.result(0, 0)
        assert (result["outcome"], result["infeasible"]) == ("error", "memory")

    play(scene())


def test_a_full_storage_pauses_all_trials_and_fails_none() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=2, metric="fd")
        await on_a_lane(dispatcher)
        await offer(dispatcher, 1)
        assert await dispatcher.full() is None
        await dispatcher.leave(GROUP, 0, "full", "No space left on device")
        assert await dispatcher.full() == "No space left on device"
        for number in (0, 1):
            assert (await dispatcher.result(number, 0))["outcome"] == "interrupted"

    play(scene())


def test_a_lane_goes_home_for_others_at_the_end_of_its_trial_and_the_rest_go_on() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=2, metric="fd")
        for number in (0, 1, 2):
            await offer(dispatcher, number)
        assert await dispatcher.next_trial(GROUP, 0, HERE) == trial(0)
        assert await dispatcher.next_trial(OTHER, 0, HERE) == trial(1)
        await dispatcher.keep(1)
        assert await dispatcher.tick(GROUP, 0, 5) is True, "nothing that runs is stopped for it"
        await dispatcher.leave(GROUP, 0, "diverged", None)
        assert [await dispatcher.next_trial(GROUP, 1, HERE) for _ in range(2)] == [None, None]
        await dispatcher.leave(OTHER, 1, "diverged", None)
        assert await dispatcher.next_trial(OTHER, 1, HERE) == trial(2)
        await dispatcher.leave(OTHER, 2, "diverged", None)
        waiting = await waits(dispatcher.next_trial(OTHER, 2, HERE))
        assert await dispatcher.closed() is False
        await dispatcher.keep(2)
        await offer(dispatcher, 3)
        assert await waiting == trial(3)
        again = await waits(dispatcher.next_trial(SECOND, 0, HERE))
        await dispatcher.keep(1)
        assert await again is None, "a lane that has nothing to do goes at once"
        await dispatcher.close()
        assert await dispatcher.closed() is True

    play(scene())


def test_without_any_lane_left_every_trial_fails_with_the_reason() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=2, metric="fd")
        await offer(dispatcher, 0)
        await dispatcher.lose("no GPU")
        pending = await waits(dispatcher.result(0, 0))
        await dispatcher.lose("no GPU")
        assert (await pending)["reason"] == "no GPU"
        await offer(dispatcher, 1)
        assert (await dispatcher.result(1, 0))["outcome"] == "error"

    play(scene())


def test_a_trial_that_returns_early_without_being_told_is_an_error() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, None, None)
        result = await dispatcher.result(0, 0)
        assert result["reason"] == "it returned before its budget was spent"

    play(scene())
