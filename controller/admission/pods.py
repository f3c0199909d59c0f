"""Admission of pods: those of TaskRuns get the node driver's volume for their results."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from controller.admission.features import FeatureFlags
from controller.admission.lineage import Lineage, Lineages, claimed
from controller.admission.names import DRIVER, VOLUME
from controller.admission.patch import add, replace
from controller.admission.podspec import Declared, declared, is_ours, results_mounts, results_volume, unserved
from controller.admission.policy import Policies
from controller.admission.review import ADMITTED, Answer, Request, invalid
from controller.kube.client import Kube
from controller.kube.resources import TASK_RUNS, Tree, annotations_of, controller_of, run_resource
from resultsfs.annotations import INJECT, REFERENCES
from resultsfs.errors import InvalidSetting
from resultsfs.knobs import Knobs
from resultsfs.reference import PREFIX
from resultsfs.settings import Settings
from resultsfs.variables import strings

PROPAGATION = "HostToContainer"
"""How containers mount the volume: a mount that the node driver puts over a dead one reaches them."""

_audit = logging.getLogger("resultsfs.audit")

Count = Callable[[str], None]
"""Told what became of a pod: `injected`, `observed`, `off`, `unserved`, `refused`, `forged`, `no-results`, `foreign`."""


@dataclass(frozen=True, slots=True)
class PodAdmission:
    """Answers for pods. Raises ApiError where nothing is known: then the pod is better left as it is."""

    kube: Kube
    policies: Policies
    lineages: Lineages
    features: FeatureFlags
    settings: Callable[[], Settings]
    count: Count = lambda outcome: None

    def answer(self, request: Request) -> Answer:
        """Admitted with the volume where the pod is a TaskRun's; 422 for an annotation that means nothing."""
        pod, namespace = request.object, request.namespace
        owner, volume = controller_of(pod), results_volume(pod)
        if owner is None or run_resource(owner) is not TASK_RUNS or volume is None:
            return self._left("foreign")
        task_run = claimed(self.kube, TASK_RUNS, namespace, owner)
        if task_run is None:
            _tell(request, owner)
            return self._left("forged")
        # Said by admission when it was created, whatever the annotations of people say now.
        handed = REFERENCES in annotations_of(task_run)
        try:
            if not self.policies.injects(namespace, task_run) and not handed:
                return self._left("off")
            settings = self.policies.settings(
                namespace, (f"TaskRun {task_run['metadata']['name']!r}", annotations_of(task_run))
            )
        except InvalidSetting as error:
            return invalid(f"resultsfs: {error}")
        if why := unserved(pod, self.settings().skipped_runtime_classes):
            return self._unserved(request, volume, handed, why)
        found = declared(pod)
        if not handed and not _reads_references(task_run):
            if not found.results:
                return self._left("no-results")
            if settings.observe:
                return self._left("observed")
        index, before = volume
        after = self._volume(self.lineages.of(namespace, task_run), found, settings)
        self.count("injected")
        operations = [] if after == before else [replace(after, "spec", "volumes", index)]
        operations += [
            add(PROPAGATION, "spec", *place[:2], "volumeMounts", place[2], "mountPropagation")
            for place in results_mounts(pod)
        ]
        return Answer(operations=operations) if operations else ADMITTED

    def _left(self, outcome: str) -> Answer:
        self.count(outcome)
        return ADMITTED

    def _unserved(self, request: Request, volume: tuple[int, Tree], handed: bool, why: str) -> Answer:
        if handed:
            self.count("refused")
            return invalid(
                f"resultsfs: pod {request.label} cannot have the volume for results, for {why}, and its TaskRun was handed "
                f'paths that only this volume serves. Set the annotation {INJECT}: "false" on the run or its namespace: '
                "then it is handed the content itself."
            )
        index, before = volume
        self.count("unserved")
        if not is_ours(before):
            return ADMITTED
        # Given before another webhook made it such a pod.
        return Answer(operations=[replace({"name": VOLUME, "emptyDir": {}}, "spec", "volumes", index)])

    def _volume(self, lineage: Lineage, found: Declared, settings: Settings) -> Tree:
        kind, name, uid = lineage.run
        default = self.settings().result_size_threshold
        knobs = Knobs(
            results=found.results,
            taskrun=lineage.task_run["metadata"]["name"],
            run_uid=uid,
            run_kind=kind,
            run_name=name,
            containers=found.containers,
            mode=found.mode,
            max_result_size=self.features().max_result_size,
            threshold=None if settings.result_size_threshold == default else settings.result_size_threshold,
            reserve=found.reserve,
            kept=lineage.kept(found.results),
        )
        return {"name": VOLUME, "csi": {"driver": DRIVER, "volumeAttributes": knobs.to_mapping()}}


def _tell(request: Request, owner: Tree) -> None:
    """A line for whoever looks for the one that made it."""
    claim = {"claimed": str(owner.get("name", "")), "claimedUid": str(owner.get("uid", ""))}
    values = {"namespace": request.namespace, "pod": request.label, **claim, "user": request.user}
    _audit.warning("forged pod: %s", json.dumps(values, ensure_ascii=True))


def _reads_references(task_run: Tree) -> bool:
    """Whether a TaskRun was given references as paths, which only a volume of ours serves."""
    return any(PREFIX in text for _, text in strings(task_run.get("spec") or {}))
