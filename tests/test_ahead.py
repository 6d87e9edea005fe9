"""Claims about work beside work: order, bounds, errors."""

import threading

import pytest

from vov.runtime.background import Behind, ahead


def test_items_come_in_order_and_at_most_so_many_are_made_before_they_are_asked_for():
    made, full, asked = [], threading.Event(), threading.Event()

    def source():
        for number in range(20):
            made.append(number)
            if number == 4:  # one was taken, three wait: this one is in the thread's hand
                full.set()
            assert number < 5 or asked.is_set(), "made before there was room"
            yield number

    items = ahead(source(), 3)
    assert next(items) == 0
    assert full.wait(30) and made == [0, 1, 2, 3, 4]
    asked.set()
    assert list(items) == list(range(1, 20))


def test_what_the_thread_raises_is_raised_here_after_the_items_before_it():
    def source():
        yield 1
        raise OSError("disk")

    items = ahead(source(), 5)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


def test_a_consumer_that_stops_stops_the_thread():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    items = ahead(endless(), 2)
    next(items)
    items.close()
    assert threading.active_count() == before


def test_writes_run_beside_each_other_and_all_are_done_at_the_end():
    done, meeting = [], threading.Barrier(2, timeout=5)  # breaks unless two calls run at once

    def write(number):
        meeting.wait()
        done.append(number)

    with Behind(2) as behind:
        for number in range(6):
            behind(write, number)
    assert sorted(done) == list(range(6))


def test_a_failed_write_is_raised():
    def fail():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), Behind(2) as behind:
        behind(fail)
    with pytest.raises(OSError, match="no space"), Behind(1) as behind:
        for _ in range(10):
            behind(fail)
