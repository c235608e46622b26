"""Statistics of several workers as one."""

from __future__ import annotations

from layergate import HttpCache
from layergate.core.totals import total


def report(number: int, **stats: object) -> dict[str, object]:
    return {"worker": number, "pid": 100 + number, **stats}


def test_numbers_are_added_up_at_any_depth():
    one = report(1, events={"hit": 2, "miss": 1}, layers={"memory": {"bytes": 10}}, waiters=1)
    two = report(0, events={"hit": 5}, layers={"memory": {"bytes": 1}, "other": {"x": 0.5}})
    summed = total([one, two], workers=3)
    workers = summed.pop("workers")
    assert summed == {
        "events": {"hit": 7, "miss": 1},
        "layers": {"memory": {"bytes": 11}, "other": {"x": 0.5}},
        "waiters": 1,
    }
    assert (workers["running"], workers["answered"]) == (3, 2)
    assert list(workers["each"]) == ["0", "1"]
    assert workers["each"]["1"] == {name: one[name] for name in one if name != "worker"}
    assert one["events"] == {"hit": 2, "miss": 1}  # untouched


def test_what_means_nothing_when_added_up_is_not():
    one = report(0, invalidation={"position": 7, "log_trusted": 1, "log_lag": 0, "tags": 3})
    two = report(1, invalidation={"position": 4, "log_trusted": 0, "log_lag": 2, "tags": 2})
    assert total([one, two])["invalidation"] == {
        "position": 7,
        "log_trusted": 0,
        "log_lag": 2,
        "tags": 5,
    }


def test_what_a_cache_says_of_itself_can_be_added_up():
    stats = HttpCache().stats()
    summed = total([{**report(0), **stats}, {**report(1), **stats}])
    del summed["workers"]
    assert summed["layers"]["memory"]["budget"] == 2 * stats["layers"]["memory"]["budget"]
    assert summed.keys() == stats.keys()


def test_nobody_answers():
    assert total([], workers=2) == {"workers": {"running": 2, "answered": 0, "each": {}}}
