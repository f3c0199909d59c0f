"""A PipelineRun: tasks in their order, independent ones in parallel, then finally.

One thread decides, from the state alone; workers execute TaskRuns and touch nothing of it. Rules of skipping
and failing from tektoncd/pipeline `pkg/reconciler/pipelinerun/{pipelinerun.go,resources/pipelinerunresolution.go}`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace

from resultsfs.errors import ResultsError
from resultsfs.events import Event
from resultsfs.local import conditions, duration, matrix, state, workspaces
from resultsfs.local.graph import dependencies
from resultsfs.local.model import Matrix, PipelineRun, WorkspaceBinding
from resultsfs.local.outcome import RunFailed, RunOutcome, Skipped
from resultsfs.local.params import enum_problem
from resultsfs.local.plan import ResultOutcome
from resultsfs.local.prepare import prepare, replace_task
from resultsfs.local.results import compose
from resultsfs.local.state import MissingResult, Node, State
from resultsfs.local.taskrun import Job, NotCreated, Performed, Surroundings, perform
from resultsfs.record import Keep
from resultsfs.reference import Reference
from resultsfs.usage import kept_results
from resultsfs.variables import result_uses

_HOUR = 3600.0


class PipelineRunner:
    """Runs one PipelineRun. Use once."""

    def __init__(self, run: PipelineRun, around: Surroundings) -> None:
        self._run = run
        self._around = around
        self._kept: dict[str, dict[str, Keep]] = {}
        self._futures: dict[Future[Performed], tuple[Node, str]] = {}
        self._fatal: RunFailed | None = None
        self._timed_out: set[str] = set()
        self._state = State([])
        self._start = around.clock()
        self._limits = _timeouts(run.timeouts)
        self._finally_start: float | None = None

    def run(self) -> RunOutcome:
        """Run it to its end. Raises what `execute` raises, after all that was started has ended."""
        try:
            prepared = prepare(self._run, self._around.run_uid)
            for node in prepared.nodes:
                self._around.settings.narrowed(self._annotations(node))
        except RunFailed as error:
            return self._outcome(error)
        self._state = State(prepared.nodes)
        declared = {node.name: node.definition.spec.tree.get("params") or () for node in prepared.nodes}
        self._kept = kept_results(self._run.pipeline.tree, self._run.tree, lambda task: declared[task["name"]])
        self._bindings = prepared.bindings
        self._waits = dependencies(self._run.pipeline.tasks)
        workers = (os.cpu_count() or 1) + 2
        with ThreadPoolExecutor(workers, thread_name_prefix="taskrun") as self._pool:
            try:
                self._loop()
            except BaseException:
                self._pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._outcome(self._fatal)

    def _loop(self) -> None:
        while True:
            if self._fatal is None:
                try:
                    self._schedule()
                except RunFailed as error:
                    self._fatal = error
            if not self._futures:
                return
            done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
            for future in done:
                self._collect(future)

    def _collect(self, future: Future[Performed]) -> None:
        node, name = self._futures.pop(future)
        try:
            performed = future.result()
        except NotCreated as error:
            node.runs.remove(name)
            self._fatal = self._fatal or RunFailed("CreateRunFailed", str(error))
            return
        node.records[name] = performed.record
        if performed.cancelled:
            self._timed_out.add(self._deadline(node)[1])
        elif performed.record.reason == "TaskRunCancelled":
            self._fatal = self._fatal or RunFailed("Cancelled", f'PipelineRun "{self._run.name}" was cancelled')

    def _schedule(self) -> None:
        while any(not node.done for node in self._state.dag):
            waiting = [node for node in self._state.dag if not (node.done or node.started)]
            changed = [node for node in waiting if self._consider(node)]
            if not changed:
                break
        if all(node.done for node in self._state.dag) and self._finally_start is None:
            self._finally_start = self._around.clock()
            for node in self._state.final:
                self._consider_final(node)

    def _consider(self, node: Node) -> bool:
        """Skip or start a task if its time has come; whether anything changed."""
        parents = [self._state.nodes[name] for name in self._waits[node.name]]
        if self._state.stopping:
            return self._skip(node, state.STOPPING_SKIP)
        ready = all(parent.done for parent in parents)
        problem: MissingResult | None = None
        if ready:
            try:
                found = self._state.replacements(node.task.result_uses())
                node.task = replace_task(node.task, found)
            except MissingResult as error:
                problem = error
            if not conditions.allow(node.task.when):
                return self._skip(node, state.WHEN_SKIP)
        if any(parent.skipped not in (None, state.WHEN_SKIP) for parent in parents):
            return self._skip(node, state.PARENT_SKIP)
        if not ready:
            return False
        if problem is not None:
            culprit = self._state.nodes[problem.task]
            if node.task.ignores_failure or culprit.skipped == state.WHEN_SKIP:
                return self._skip(node, state.MISSING_SKIP)
        if reason := self._late(node):
            return self._skip(node, reason)
        if node.task.matrix is not None and matrix.is_empty(node.task.matrix):
            return self._skip(node, state.EMPTY_MATRIX_SKIP)
        if problem is not None:
            completed = self._state.nodes[problem.task].succeeded
            node.invalid = f'{problem}, which is referenced by task "{node.name}"' if completed else str(problem)
            self._tell(Event("ResultValidationFailed", f'Task "{node.name}" failed result validation: {node.invalid}'))
            return True
        self._launch(node)
        return True

    def _consider_final(self, node: Node) -> None:
        node.task = replace_task(node.task, self._state.context(), in_spec=False)
        try:
            node.task = replace_task(node.task, self._state.replacements(node.task.result_uses()))
        except MissingResult as error:
            self._tell(Event("FinallyTaskSkipped", f'final task "{node.name}" is skipped: {error}'))
            self._skip(node, state.MISSING_SKIP)
            return
        if not conditions.allow(node.task.when):
            self._skip(node, state.WHEN_SKIP)
        elif reason := self._late(node):
            self._skip(node, reason)
        elif node.task.matrix is not None and matrix.is_empty(node.task.matrix):
            self._skip(node, state.EMPTY_MATRIX_SKIP)
        else:
            self._launch(node)

    def _skip(self, node: Node, reason: str) -> bool:
        node.skipped = reason
        self._around.tell(lambda observer: observer.task_skipped(Skipped(node.name, reason)))
        return True

    def _deadline(self, node: Node) -> tuple[float | None, str]:
        """The earliest deadline of the run that holds for a task, and which timeout it is."""
        own, start = ("finally", self._finally_start) if node.is_final else ("tasks", self._start)
        found: list[tuple[float, str]] = []
        if self._limits["pipeline"]:
            found.append((self._start + self._limits["pipeline"], "pipeline"))
        if self._limits[own] and start is not None:
            found.append((start + self._limits[own], own))
        return min(found) if found else (None, "pipeline")

    def _late(self, node: Node) -> str | None:
        deadline, owner = self._deadline(node)
        if deadline is None or self._around.clock() <= deadline:
            return None
        self._timed_out.add(owner)
        return {
            "pipeline": state.PIPELINE_TIMEOUT_SKIP,
            "tasks": state.TASKS_TIMEOUT_SKIP,
            "finally": state.FINALLY_TIMEOUT_SKIP,
        }[owner]

    def _launch(self, node: Node) -> None:
        lengths = {name: len(found.runs) for name, found in self._state.nodes.items() if found.task.matrix is not None}
        node.task = task = replace_task(node.task, self._state.lengths(lengths), in_spec=False)
        self._warn_of_leftovers(node)
        combinations = [matrix.as_params(item) for item in self._combinations(node)] if task.matrix else [()]
        for combination in combinations:
            if problem := enum_problem(node.definition.spec.params, (*combination, *task.params)):
                raise RunFailed("InvalidParamValue", f'Invalid param value from PipelineTask "{node.name}": {problem}')
        if task.spec is not None:
            node.definition = replace(node.definition, spec=task.spec)
        optional = [item.name for item in self._run.pipeline.workspaces if item.optional]
        bindings = workspaces.of_pipeline_task(task, self._result_bindings(), optional)
        names = matrix.run_names(self._run.name, node.name, len(combinations))
        # All names first: a node is finished when as many records are there.
        node.runs = list(names)
        for name, combination in zip(names, combinations, strict=True):
            job = Job(
                name=name,
                task=node.definition,
                params=(*combination, *task.params),
                bindings=bindings,
                annotations=self._annotations(node),
                embedded=task.spec is not None,
                pipeline_task=node.name,
                retries=task.retries,
                timeout=self._own_timeout(node),
                deadline=self._deadline(node)[0],
                kept=self._kept.get(node.name, {}),
            )
            self._futures[self._pool.submit(perform, job, self._around)] = (node, name)

    def _combinations(self, node: Node) -> list[dict[str, str]]:
        fanned = node.task.matrix or Matrix()
        if problem := matrix.type_problem(fanned, node.name):
            raise RunFailed(
                "InvalidMatrixParameterTypes", f'Failed to validate matrix "{self._run.name}" with error {problem}'
            )
        found = matrix.combinations(fanned)
        if len(found) > matrix.MOST:
            raise RunFailed(
                "PipelineValidationFailed",
                f'pipeline task "{node.name}": the matrix has {len(found)} combinations: expected at most {matrix.MOST}',
            )
        return found

    def _own_timeout(self, node: Node) -> float | None:
        spec = self._run.task_run_specs.get(node.name)
        own = (spec.timeout if spec else None) or node.task.timeout
        if own is not None:
            return duration.parse(own)
        whole = self._limits["finally" if node.is_final else "tasks"]
        return None if whole == 0 else max(whole, _HOUR)

    def _result_bindings(self) -> tuple[WorkspaceBinding, ...]:
        """The run's bindings with all results that are there by now: Tekton replaces them in its workspaces too."""
        uses = [use for item in self._bindings for use in result_uses([item.sub_path, item.claim_name])]
        known = [use for use in uses if use.task in self._state.nodes and self._state.nodes[use.task].finished]
        there = [use for use in known if self._state.nodes[use.task].value(use.result) is not None]
        return workspaces.replaced(self._bindings, self._state.replacements(there))

    def _annotations(self, node: Node) -> Mapping[str, str]:
        """In Tekton's precedence: taskRunSpecs, the run, its Pipeline, the embedded task, the Task."""
        spec = self._run.task_run_specs.get(node.name)
        return {
            **node.definition.annotations,
            **node.task.annotations,
            **self._run.pipeline.annotations,
            **self._run.annotations,
            **(spec.annotations if spec else {}),
        }

    def _warn_of_leftovers(self, node: Node) -> None:
        for use in result_uses([value for _, value in node.task.params]):
            part = f".{use.key}" if use.key else f"[{use.index}]" if use.index is not None else ""
            name = f"tasks.{use.task}.results.{use.result}{part}"
            self._tell(
                Event(
                    "ResultReferenceUnresolved",
                    f'pipeline task "{node.name}": $({name}) names nothing in the result, so it stays as it is, as in Tekton',
                )
            )

    def _tell(self, event: Event) -> None:
        self._around.tell(lambda observer: observer.event(None, event))

    def _size(self, reference: Reference) -> int | None:
        """The size of what a reference stands for; None in stock mode, and with an event where nobody can say."""
        content = self._around.content
        if content is None:
            return None
        try:
            return content.size(reference)
        except ResultsError as error:
            self._tell(Event("ResultSizeUnknown", f"the size given for {reference} is its own: {error}"))
            return None

    def _outcome(self, fatal: RunFailed | None) -> RunOutcome:
        run = self._run
        results: tuple[ResultOutcome, ...] = ()
        if fatal is not None:
            good, reason, message = False, fatal.reason, fatal.message
        else:
            good, reason, message = self._condition()
            results, invalid = compose(run.pipeline.results, self._state, self._size)
            if invalid:
                good, reason = False, "CouldntGetPipelineResult"
                message = (
                    f"Failed to get PipelineResult from TaskRun Results for PipelineRun {run.name}: invalid "
                    f"pipelineresults [{' '.join(invalid)}], the referenced results don't exist"
                )
        return RunOutcome(
            kind="PipelineRun",
            name=run.name,
            namespace=run.namespace,
            uid=self._around.run_uid,
            status="Succeeded" if good else "Failed",
            reason=reason,
            message=message,
            results=results,
            task_runs=self._state.records(),
            skipped=self._state.skipped(),
        )

    def _condition(self) -> tuple[bool, str, str]:
        for owner, words in (("pipeline", "failed to finish"), ("tasks", "failed due to tasks failed to finish")):
            if owner in self._timed_out:
                within = duration.show(self._limits[owner])
                return False, "PipelineRunTimeout", f'PipelineRun "{self._run.name}" {words} within "{within}"'
        return self._state.condition()


def _timeouts(given: Mapping[str, str]) -> dict[str, float]:
    """The run's timeouts in seconds, 0 for none; what is not given follows from the others, as in Tekton."""
    seconds = {key: duration.parse(value) for key, value in given.items()}
    whole = seconds.get("pipeline", _HOUR)
    tasks, final = seconds.get("tasks"), seconds.get("finally")
    return {
        "pipeline": whole,
        "tasks": tasks if tasks is not None else max(whole - (final or 0), 0),
        "finally": final if final is not None else max(whole - (tasks or 0), 0),
    }
