"""A table is redrawn by a thread of its own while events come: neither sees the other's work half done."""

import io
import itertools
import threading
import time

from rich.console import Console

from bakeoff.progress.eta import Forecast
from bakeoff.progress.live import LiveDisplay
from bakeoff.progress.throughput import Rates
from bakeoff.store.events import Start, event_of
from bakeoff.store.records import Run
from bakeoff.tuning.labels import run_names
from tests.test_forecast import stream


class Changing(Forecast):
    """A forecast that takes its time to change, and notices who looks at it meanwhile."""

    changes = False

    def take(self, event):
        self.changes = True
        time.sleep(0.0005)
        super().take(event)
        self.changes = False

    def left(self):
        assert not self.changes
        return super().left()


def test_redraws_and_events_do_not_disturb_each_other():
    plan, protocol, rows, added = stream("tuned")
    later = {run.id: run for run in added}
    now, errors, ended = [0.0], [], threading.Event()

    def clock():
        return now[0]

    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=30)
    display = LiveDisplay(
        plan.runs, [], Changing(Rates(plan, protocol), Start(done=[], steps={}), clock), clock, console
    )

    def redraw():
        try:
            while not ended.is_set():
                with console.capture():
                    console.print(display.render())
                display.live.refresh()
        except BaseException as error:
            errors.append(error)

    with display:
        threads = [threading.Thread(target=redraw) for _ in range(2)]
        for thread in threads:
            thread.start()
        for row in rows[:-1]:
            now[0] = row["time"]
            if row["run"] in later:
                display.add(later.pop(row["run"]))
            event = event_of(row)
            display.handle(event)
            if event.kind == "done":
                display.show(event.model_copy(update={"check_notes": {"a check": "a note"}}))
            if errors:
                break
        ended.set()
        for thread in threads:
            thread.join(30)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)
    assert sum(row.state == "done" for row in display.rows.values()) > 5


class Counted(list):
    """A list that counts how often an element of it is looked at in turn."""

    looks = 0

    def __iter__(self):
        for element in super().__iter__():
            self.looks += 1
            yield element


def test_names_and_forecast_look_at_every_run_a_few_times_however_many_there_are():
    plan, protocol, *_ = stream("tuned")
    facts = next(facts for facts in plan.entries.values() if facts.search)
    runs = Counted(
        Run(f"e{i}-{kind}{n}", f"e{i}", kind, "lora", {"learning_rate": n}, n, 10, n + 1 if kind == "trial" else None)
        for i, (kind, count) in itertools.product(range(30), (("trial", 4), ("entry", 2)))
        for n in range(count)
    )
    names = run_names(runs)
    assert names["e29-trial3"] == "e29 trial 4: learning_rate 3"
    assert names["e29-entry1"] == "e29 seed 1"
    plan = plan.model_copy(update={"runs": runs, "entries": {f"e{i}": facts for i in range(30)}})
    forecast = Forecast(Rates(plan, protocol), Start(done=[], steps={}), lambda: 0.0)
    assert len({entry for entry, _ in forecast.work}) == 30
    assert runs.looks <= 10 * len(runs)
