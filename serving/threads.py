"""Threads that tell how many wait for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """A pool of threads."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """Pieces of work that no thread has begun yet."""
        return self._work_queue.qsize()
