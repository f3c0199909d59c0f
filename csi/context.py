"""What a publish request says of a volume: the kubelet's word on the pod, the pod's own on its results.

Only the kubelet's keys select whose results these are. The pod's author may write any attribute, so those are read
by a strict schema (`resultsfs.knobs`) in which no store, credential, limit or namespace can be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from csi.names import EPHEMERAL, KUBELET_KEYS, POD_NAME, POD_NAMESPACE, POD_UID
from resultsfs.errors import InvalidKnob, InvalidRecord
from resultsfs.knobs import Knobs
from resultsfs.record import VolumeRecord


def record_of(volume_id: str, context: Mapping[str, str]) -> VolumeRecord:
    """The record of an inline ephemeral volume. Raises InvalidKnob, InvalidRecord that name key, value and what is
    allowed."""
    for key in (EPHEMERAL, POD_NAMESPACE, POD_NAME, POD_UID):
        if not context.get(key):
            raise InvalidKnob(
                f"attribute {key!r} is missing: only inline volumes of pods are served, and the CSIDriver object must "
                "say podInfoOnMount: true"
            )
    if context[EPHEMERAL] != "true":
        raise InvalidKnob(
            f"attribute {EPHEMERAL} is {context[EPHEMERAL]!r}: expected 'true', for only inline volumes of pods are "
            "served, and no persistent ones"
        )
    try:
        pod_uid = UUID(context[POD_UID])
    except ValueError:
        raise InvalidKnob(f"attribute {POD_UID} is {context[POD_UID]!r}: expected a UID") from None
    knobs = Knobs.from_mapping({key: text for key, text in context.items() if not key.startswith(KUBELET_KEYS)})
    try:
        return VolumeRecord(
            volume_id=volume_id,
            namespace=context[POD_NAMESPACE],
            taskrun=knobs.taskrun,
            pod_name=context[POD_NAME],
            pod_uid=pod_uid,
            run_uid=knobs.run_uid,
            run_kind=knobs.run_kind,
            run_name=knobs.run_name or knobs.taskrun,
            results=knobs.results,
            containers=knobs.containers,
            mode=knobs.mode,
            max_result_size=knobs.max_result_size,
            threshold=knobs.threshold,
            reserve=knobs.reserve,
            kept=knobs.kept,
        )
    except InvalidRecord as error:
        raise InvalidKnob(str(error)) from None
