"""What runs next: baselines, then the trials of every entry rung by rung, the extension, and the final runs.

Each decision is made from the records alone, so a bakeoff that was interrupted anywhere resumes with the decisions that
it would have made.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from bakeoff.analysis.alone import pace_alone
from bakeoff.driver.bus import Bus
from bakeoff.driver.plan import Plan
from bakeoff.driver.ready import Work
from bakeoff.driver.rounds import later_rounds
from bakeoff.driver.runs import make_trial
from bakeoff.errors import ConfigError, SetupError
from bakeoff.store.events import Failed, State
from bakeoff.store.files import write_json
from bakeoff.store.records import Run, RunResult, Step, Task
from bakeoff.store.run_folder import Folder
from bakeoff.tuning.asking import ask
from bakeoff.tuning.entries import Entry
from bakeoff.tuning.labels import setting_text
from bakeoff.tuning.search import Settings, edges, extension, survivors


class Scheduler:
    """Says what a planned bakeoff carries out next (see `ready`), each run chosen after those that it depends on.

    Entries do not wait for each other, nor do trials of one rung, nor final runs. `left` says what was left to do for
    each run that is not a trial when the session began.
    """

    def __init__(self, folder: Folder, planned: Plan, bus: Bus, left: Mapping[str, Step | SetupError]):
        self.folder, self.planned, self.bus, self.left = folder, planned, bus, left
        self.chosen: dict[str, Run] = {}  # the best trial of each tuned entry

    def work(self) -> Work:
        """Yield all that is not done yet. Before a run is yielded its run.json is written; then its record is read."""
        baselines = [self.unless_done(run) for run in self.planned.runs if run.kind == "baseline"]
        yield [*baselines, *(self.entry(entry) for entry in self.planned.entries.values())]
        if self.planned.document.looks:
            for runs in later_rounds(self.folder, self.planned, self.bus):
                yield [self.final(run, self.chosen.get(run.entry)) for run in runs]
        yield from self.timings()

    def entry(self, entry: Entry) -> Work:
        """Yield an entry's trials, if it has any, then one final run per seed, with the chosen settings.

        With seeds in rounds, these are the runs of the first look.
        """
        finals = [run for run in self.planned.runs if run.entry == entry.name and run.kind == "entry"]
        first = finals[: self.planned.document.looks[0]] if self.planned.document.looks else finals
        if not entry.trial_points:
            yield [self.final(run, None) for run in first]
            return
        trials = [run for run in self.planned.runs if run.entry == entry.name and run.kind == "trial"]
        best = yield from self.search(entry, trials)
        if best is None:
            self.fail(finals, f"every trial failed: {self.result(trials[0]).error}")
            return
        self.chosen[entry.name] = best
        yield [self.final(run, best) for run in first]

    def final(self, run: Run, best: Run | None) -> Work:
        """Yield a final run with the settings of the best trial, if there is one; that of its seed adopts the trial."""
        if best is None:
            yield from self.unless_done(run)
            return
        adopts = best.id if run.seed == best.seed else None
        yield from self.unless_done(replace(run, settings=best.settings, adopts=adopts))
        if adopts and (result := self.folder.run(run.id).result()) and result.status == "done":
            for trial in self.folder.trials(run.entry, self.planned.document):
                self.forget(trial)

    def search(self, entry: Entry, trials: Sequence[Run]) -> Generator[Task | list[Work], None, Run | None]:
        """Yield trials until one is chosen, and return it; return None if all failed.

        Trials that an earlier search, interrupted or damaged, has tried beyond this one's decisions are ignored.
        """
        self.try_again(entry)
        living, stopped = list(trials), list[tuple[int, float, Run]]()
        yield from self.asked(entry, living)
        everyone, known = list(living), [entry.chosen(trial.settings) for trial in living]
        for rung in self.planned.document.rungs:
            if len(living) > 1:
                yield [self.reach(trial, rung) for trial in living]
                kept = survivors([self.loss(trial, rung) for trial in living])
                leaving = [trial for i, trial in enumerate(living) if i not in kept]
                yield [self.stop(trial, rung) for trial in leaving]
                losses = [self.loss(trial, rung) for trial in leaving]
                stopped += [
                    (-rung, math.inf if loss is None else loss, trial)
                    for loss, trial in zip(losses, leaving, strict=True)
                ]
                living = [living[i] for i in kept]
        yield [self.reach(trial) for trial in living]
        for _, _, trial in sorted(stopped, key=lambda row: row[:2]):
            if self.best(living) is None:  # no survivor has come through
                living.append(trial)
                yield from self.reach(trial)
        best = self.best(living)
        if best is None:
            return None
        further = self.extension(entry, best, known)
        decided = {*(trial.id for trial in everyone), *([further.id] if further else [])}
        for trial in self.folder.trials(entry.name, self.planned.document):
            if trial.id not in decided:  # past the edge of another best one, or asked for after other losses
                self.folder.run(trial.id).remove()
        if further:
            for task in self.reach(further):
                self.bus.add(further)
                yield task
            best = self.best([best, further])
        assert best is not None
        chosen = ", ".join(f"{name} {setting_text(value, 3)}" for name, value in entry.chosen(best.settings).items())
        self.bus.note(f"{entry.name}: chosen by validation loss: {chosen}")
        return best

    def try_again(self, entry: Entry) -> None:
        """Forget that trials failed, except those that diverged, which would diverge again.

        If all of them failed, forget all.
        """
        trials = self.folder.trials(entry.name, self.planned.document)
        failed = [t for t in trials if (r := self.folder.run(t.id).result()) and r.status == "failed"]
        for trial in failed:
            if len(failed) == len(trials) or self.result(trial).cause != "diverged":
                self.folder.run(trial.id).result_file.unlink()

    def asked(self, entry: Entry, trials: list[Run]) -> Work:
        """Add to `trials` those that follow from the losses at the first rung, which all reach for it, one by one."""
        rung = next(iter(self.planned.document.rungs), None)
        while len(trials) < entry.trials:
            yield [self.reach(trial, rung) for trial in trials]
            told = [(entry.chosen(t.settings), self.loss(t, rung or t.steps or 0)) for t in trials]
            trial = make_trial(
                entry, len(trials) + 1, ask(entry.ranges, told, trials[0].seed), trials[0].seed, trials[0].steps or 0,
                self.planned.held_equal,
            )  # fmt: skip
            self.bus.add(trial)
            trials.append(trial)

    def extension(self, entry: Entry, best: Run, known: Sequence[Settings]) -> Run | None:
        """Return one more trial past the edge of the best one; None if it is not on an edge, or there is no room."""

        def allowed(point: Settings) -> bool:
            try:
                return entry.build(point).virtual_tokens <= self.planned.virtual_tokens
            except ConfigError:
                return False

        chosen, count = entry.chosen(best.settings), entry.trials
        point = extension(entry.ranges, chosen, edges(known, chosen), count, allowed)
        if point is None:
            return None
        return make_trial(entry, count + 1, point, best.seed, best.steps or 0, self.planned.held_equal)

    def result(self, run: Run) -> RunResult:
        """Return the record of a run that has ended or paused."""
        result = self.folder.run(run.id).result()
        assert result is not None, run.id
        return result

    def reach(self, trial: Run, rung: int | None = None) -> Iterator[Task]:
        """Yield a trial unless it has reached the rung (None: the end), or has failed before it."""
        try:
            result = self.folder.run(trial.id).check()
        except SetupError:  # a damaged curve
            result = None
        if result is None or (result.status == "paused" and (rung is None or (result.steps or 0) < rung)):
            yield self.start(replace(trial, until=rung))

    def loss(self, trial: Run, rung: int) -> float | None:
        """Return a trial's lowest validation loss up to a rung; None if it failed before."""
        try:
            curve = self.folder.run(trial.id).curve()
        except SetupError:  # damaged, of a trial that failed: another's is whole by now
            curve = []
        reached = any(row.step >= rung for row in curve)
        if self.result(trial).status == "failed" and not reached:
            return None
        losses = [row.validation_loss for row in curve if row.step <= rung and row.validation_loss is not None]
        return min(losses, default=None)

    def best(self, trials: Sequence[Run]) -> Run | None:
        """Return the finished trial with the lowest validation loss, the first of equals."""
        results = {t.id: r for t in trials if (r := self.folder.run(t.id).result()) and r.status == "done"}
        ended = [trial for trial in trials if trial.id in results]
        return min(ended, key=lambda trial: results[trial.id].metrics["validation/loss"], default=None)

    def timings(self) -> Iterator[Task]:
        """Yield a final run of each entry whose runs shared a device, to be timed while no other is carried out."""
        for name in self.planned.entries if not self.planned.again else ():
            finals = [run for run in self.planned.runs if run.kind == "entry" and run.entry == name]
            done = [r for run in finals if (r := self.folder.result(run.id, self.planned.document)) and r.metrics]
            if any(r.beside for r in done) and pace_alone(done) is None:
                self.bus.note(f"{name}: its steps are timed without other runs beside it")
                yield Task(done[0].run, "time")

    def unless_done(self, run: Run) -> Iterator[Task]:
        """Yield a run unless it is done with these settings, and its record is complete."""
        left = self.left[run.id]
        if isinstance(left, SetupError):
            self.fail([run], str(left))
            return
        files = self.folder.run(run.id)
        record = files.finished()
        if record and record.run.settings != run.settings:
            left = "train"
        if left != "nothing":
            yield self.start(run, left)
        if files.done():
            self.forget(run)

    def start(self, run: Run, left: Step = "train") -> Task:
        """Return the task after writing what its process reads.

        The earlier record is deleted or set aside, so a process that dies at once leaves no record. A final run that
        was begun with other settings, which the search chose while a trial had failed, starts from the beginning.
        """
        files = self.folder.run(run.id)
        if left == "train":
            if not self.begun(run):
                self.forget(run)
            files.forget_results()
        else:
            files.set_aside()
        write_json(files.run_file, asdict(run))
        return Task(run, left)

    def begun(self, run: Run) -> bool:
        """Return whether a run was begun before with the same settings."""
        files = self.folder.run(run.id)
        record = files.finished()
        try:
            return (record.run if record else files.run()).settings == run.settings
        except SetupError:  # damaged, or not there
            return False

    def stop(self, trial: Run, rung: int) -> Iterator[Task]:
        """Leave a trial at the rung where it stops, and delete its checkpoints.

        A trial that went further, because another had failed when that was decided, is yielded again up to here: then
        its record is that of a bakeoff in which nothing failed.
        """
        self.forget(trial)
        files, result = self.folder.run(trial.id), self.result(trial)
        last = max([result.steps or 0, *(row.step for row in files.curve())])
        if last > rung or (last == rung and result.status == "failed"):
            yield self.start(replace(trial, until=rung))
            self.forget(trial)
        if self.result(trial).status == "paused":
            self.bus.handle(State(run=trial.id, state="stopped"))

    def forget(self, run: Run) -> None:
        """Delete a run's checkpoints; if it is run again, it starts from the beginning."""
        self.folder.run(run.id).forget_checkpoints()

    def fail(self, finals: Sequence[Run], error: str) -> None:
        """Record final runs that cannot run."""
        for run in finals:
            self.folder.run(run.id).set_aside()
            self.folder.run(run.id).write_result(RunResult(run, "failed", error=error))
            self.bus.handle(Failed(run=run.id, error=error))
