"""The dispatcher's protocol, without Ray: it is plain asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from stepsearch.errors import StepsearchError
from stepsearch.search.dispatcher import Dispatcher

GROUP = (0, "first")  # lane 0, the first incarnation of its worker group
SECOND = (0, "second")
OTHER = (1, "first")
HERE = "a node"


def trial(number: int) -> bytes:
    """A sealed trial; the dispatcher never opens it."""
    return f"trial {number}".encode()


async def offer(dispatcher: Dispatcher, number: int) -> None:
    """A trial, and Ray Tune's actor of it."""
    await dispatcher.offer(number, budget=20, sealed=trial(number))
    assert await dispatcher.position(number) == 0


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


async def waits(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start something that must not be answered yet."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


async def on_a_lane(dispatcher: Dispatcher, number: int = 0) -> None:
    await offer(dispatcher, number)
    assert (await dispatcher.next_trial(GROUP, number, HERE)) == trial(number)


def test_a_report_waits_until_tune_has_decided_to_go_on() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        report = await waits(dispatcher.report(GROUP, 0, {"fd": 3.0}, 10))
        result = await dispatcher.result(0, position=0)
        assert result["fd"] == 3.0
        assert dict(result["metrics"]) == {"fd": 3.0}
        assert not result["done"]
        after = await waits(dispatcher.result(0, position=1))
        assert await report is True
        after.cancel()

    play(scene())


def test_a_stopped_trial_leaves_at_its_report_and_the_next_one_starts() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        report = await waits(dispatcher.report(GROUP, 0, {"fd": 3.0}, 10))
        await dispatcher.result(0, position=0)
        await dispatcher.stop(0)
        assert await report is False
        await dispatcher.leave(GROUP, 0, None, None)
        await on_a_lane(dispatcher, 1)

    play(scene())


def test_the_last_report_ends_the_trial_as_finished() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        assert await dispatcher.report(GROUP, 0, {"fd": 1.0}, 20) is False
        result = await dispatcher.result(0, position=0)
        assert (result["done"], result["outcome"]) == (True, "finished")

    play(scene())


def test_a_metric_that_is_not_finite_ends_the_trial_as_diverged() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        assert await dispatcher.report(GROUP, 0, {"fd": float("nan")}, 10) is False
        result = await dispatcher.result(0, position=0)
        assert result == {"done": True, "outcome": "diverged", "reason": "fd is nan"}

    play(scene())


def test_all_workers_of_a_lane_hear_the_same_verdict_however_late_they_ask() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        assert await dispatcher.tick(GROUP, 0, 5) is True
        await dispatcher.stop(0)
        assert await dispatcher.tick(GROUP, 0, 5) is True
        assert await dispatcher.tick(GROUP, 0, 6) is False

    play(scene())


def test_rank_one_waits_for_the_metrics_of_rank_zero() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        rank_one = await waits(dispatcher.report(GROUP, 0, None, 10))
        rank_zero = await waits(dispatcher.report(GROUP, 0, {"fd": 3.0}, 10))
        await waits(dispatcher.result(0, position=1))
        assert await asyncio.gather(rank_zero, rank_one) == [True, True]

    play(scene())


def test_workers_of_one_incarnation_get_the_same_trial() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        for number in (0, 1):
            await offer(dispatcher, number)
        first, again = [await dispatcher.next_trial(GROUP, 0, HERE) for _ in range(2)]
        assert first == again == trial(0)

    play(scene())


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

    play(scene())


def test_only_the_first_worker_of_a_group_says_why_it_left() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, "error", "first")
        await dispatcher.leave(GROUP, 0, "error", "second")
        assert (await dispatcher.result(0, 0))["reason"] == "first"

    play(scene())


def test_a_resumed_trial_that_reports_a_milestone_again_is_heard_once() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        first = await waits(dispatcher.report(GROUP, 0, {"fd": 3.0}, 10))
        await dispatcher.next_trial(SECOND, 0, HERE)
        with pytest.raises(StepsearchError, match="another lane"):
            await first
        again = await waits(dispatcher.report(SECOND, 0, {"fd": 3.0}, 10))
        assert (await dispatcher.result(0, position=0))["fd"] == 3.0
        nothing_new = await waits(dispatcher.result(0, position=1))
        assert await again is True
        nothing_new.cancel()

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


def test_the_successor_of_a_lost_tune_actor_hears_the_open_result_again() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await waits(dispatcher.report(GROUP, 0, {"fd": 3.0}, 10))
        first = await dispatcher.result(0, position=0)
        position = await dispatcher.position(0)  # the successor asks where it stands
        assert position == 0
        assert await dispatcher.result(0, position) == first

    play(scene())


def test_pause_interrupts_waiting_and_running_trials() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await offer(dispatcher, 1)
        await dispatcher.pause()
        assert (await dispatcher.result(1, 0))["outcome"] == "interrupted"
        assert await dispatcher.tick(GROUP, 0, 5) is False
        await dispatcher.leave(GROUP, 0, None, None)
        assert (await dispatcher.result(0, 0))["outcome"] == "interrupted"

    play(scene())


@pytest.mark.parametrize("comes", ["position", "stop"])
def test_results_wait_while_a_trial_has_no_actor_yet(comes: str) -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=2, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.offer(1, budget=20, sealed=trial(1))
        report = asyncio.create_task(dispatcher.report(GROUP, 0, {"fd": 3.0}, 20))
        pending = await waits(dispatcher.result(0, 0))
        await getattr(dispatcher, comes)(1)
        assert (await pending)["outcome"] == "finished"
        await report

    play(scene())


def test_a_trial_is_on_its_lane_before_it_has_an_actor() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await dispatcher.offer(0, budget=20, sealed=trial(0))
        assert await dispatcher.next_trial(GROUP, 0, HERE) == trial(0)

    play(scene())


def test_close_sends_lanes_home() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        asking = await waits(dispatcher.next_trial(GROUP, 0, HERE))
        await dispatcher.close()
        assert await asking is None

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


def test_progress_tells_how_far_the_trials_on_the_lanes_are() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.tick(GROUP, 0, 7)
        assert await dispatcher.progress() == {0: 7}

    play(scene())


def test_the_search_hears_when_a_lane_is_ready_and_when_a_trial_has_begun() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        ready, begun = await waits(dispatcher.ready()), await waits(dispatcher.begun())
        asking = asyncio.create_task(dispatcher.next_trial(GROUP, 0, HERE))
        await ready
        await offer(dispatcher, 0)
        assert await asking == trial(0)
        assert not begun.done()
        await dispatcher.tick(GROUP, 0, 7)
        assert await begun is True

    play(scene())


@pytest.mark.parametrize("ending", ["pause", "close", "lose"])
def test_nobody_waits_for_trials_that_will_not_come(ending: str) -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=1, lanes=1, metric="fd")
        ready, begun = await waits(dispatcher.ready()), await waits(dispatcher.begun())
        await getattr(dispatcher, ending)(*["no GPU"] * (ending == "lose"))
        await ready
        assert await begun is False

    play(scene())


def test_a_trial_that_returns_early_without_being_told_is_an_error() -> None:
    async def scene() -> None:
        dispatcher = Dispatcher(retries=0, lanes=1, metric="fd")
        await on_a_lane(dispatcher)
        await dispatcher.leave(GROUP, 0, None, None)
        result = await dispatcher.result(0, 0)
        assert result["reason"] == "it returned before its budget was spent"

    play(scene())


pytestmark = pytest.mark.timeout(60)
