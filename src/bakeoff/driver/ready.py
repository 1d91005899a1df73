"""Which runs can start now: work is described as what comes one after the other, and what may run side by side."""

from collections.abc import Iterator
from typing import TypeAlias

from bakeoff.store.records import Task

# Yields a task, or a list of other work. It is asked to continue once the task, or all work in the list, has ended.
Work: TypeAlias = Iterator["Task | list[Work]"]


class Part:
    """A part of the work: `work`, and what it has yielded and waits for."""

    def __init__(self, work: Work):
        self.work = work
        self.task: Task | None = None
        self.parts: list[Part] = []
        self.ended = False

    def take(self) -> "Part | None":
        """Return the first part with a task that can start now; None if none can, or everything has ended."""
        while not (self.ended or self.task):
            for part in self.parts:
                if found := part.take():
                    return found
            self.parts = [part for part in self.parts if not part.ended]
            if self.parts:
                return None
            step = next(self.work, None)
            if isinstance(step, Task):
                self.task = step
                return self
            self.parts, self.ended = [Part(work) for work in step or ()], step is None
        return None


class ReadySet:
    """The tasks that can start now.

    They are taken in the order in which the work names them. If each has ended before the next is taken, that is the
    order of a plan.
    """

    def __init__(self, work: Work):
        self.whole = Part(work)
        self.started: dict[str, Part] = {}  # by the run's id
        self.waits = False  # whether nothing can start before a task has ended

    def take(self) -> Task | None:
        """Return a task to be started now; None if there is none before another one has ended."""
        part = None if self.waits else self.whole.take()
        if part is None or part.task is None:
            self.waits = True
            return None
        self.started[part.task.run.id] = part
        return part.task

    def end(self, task: Task) -> None:
        """Take note that a task has ended, and that its record is there."""
        self.started.pop(task.run.id).task = None
        self.waits = False

    def in_order(self) -> Iterator[Task]:
        """Yield all tasks, one after the other; each has ended when the next is asked for."""
        while task := self.take():
            yield task
            self.end(task)
