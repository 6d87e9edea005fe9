"""Work beside work: a model decodes the next frames while the last ones are written."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
END = object()


def ahead(items: Iterable[T], most: int) -> Iterator[T]:
    """The items in order, made by a thread of their own, up to `most` of them before they are asked for.

    What the thread raises is raised here. A consumer that stops early stops the thread at its next item.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(most)
    stop = threading.Event()

    def give(item: object, error: BaseException | None = None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                made.put((item, error), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                give(item)
                if stop.is_set():
                    return
            give(END)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            give(END, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is END:
                return
            yield item
    finally:
        stop.set()
        thread.join(5)  # a large model may be in the middle of something that nobody wants any more


class Behind:
    """Writes in threads while more is made: `with Behind() as behind: behind(write, path, frame)`.

    Results are dropped. An error ends the block, at the latest at its end; what was begun is waited for.

    Args:
        threads: calls at a time; a call beyond twice as many waits, so memory does not grow.
    """

    def __init__(self, threads: int = 0):
        threads = threads or min(8, os.cpu_count() or 1)
        self.pool, self.most = ThreadPoolExecutor(threads), 2 * threads
        self.pending: deque[Future] = deque()

    def __enter__(self) -> Behind:
        return self

    def __call__(self, work: Callable, *args: object) -> None:
        """Calls work(*args) soon."""
        while len(self.pending) >= self.most:
            self.pending.popleft().result()
        self.pending.append(self.pool.submit(work, *args))

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self.pending:
                future.result()
