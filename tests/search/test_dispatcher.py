"""The dispatcher's protocol, without Ray: it is plain asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from stepsearch.errors import StepsearchError
from stepsearch.search.dispatcher import Dispatcher

pytestmark = pytest.mark.timeout(60)

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
