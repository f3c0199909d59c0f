"""What a TaskRun's pod says of its results, read from the commands that Tekton wrote (pkg/pod/entrypoint.go, pod.go)."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.admission.names import DRIVER, VOLUME
from controller.kube.resources import Tree
from resultsfs.message import LIMIT, entry_cost
from resultsfs.record import Mode

ENTRYPOINT = "/tekton/bin/entrypoint"
SIDECAR = "/ko-app/sidecarlogresults"

# Sizes of what SPIRE adds (pkg/spire/sign.go): a certificate of the workload, and ECDSA signatures in base64.
_SVID = 1400
_SIGNATURE = 104
_STEP_RESULT = 64  # bytes: a digest or a URL; larger ones are the author's risk, as in stock Tekton


@dataclass(frozen=True, slots=True)
class Declared:
    """A pod's declared results in declared order, how they are collected, and what else its messages carry."""

    results: tuple[str, ...]
    mode: Mode
    containers: int
    reserve: int


def declared(pod: Tree) -> Declared:
    """What the pod's own commands say.

    `containers` as the kubelet counts them for the length of messages: regular and init containers, native
    sidecars among the latter. `reserve` in bytes, for the largest of the pod's messages.
    """
    spec = pod.get("spec") or {}
    regular, init = spec.get("containers") or [], spec.get("initContainers") or []
    steps = [arguments for container in regular if (arguments := _entrypoint(container)) is not None]
    from_steps = next((value for arguments in steps if (value := _option(arguments, "-results"))), None)
    sidecar = next((found for container in (*regular, *init) if (found := _sidecar(container)) is not None), None)
    results = _names(sidecar if sidecar is not None else from_steps)
    mode = Mode.TERMINATION_MESSAGE if sidecar is None else Mode.SIDECAR_LOGS
    reserve = max((_reserve(arguments, results) for arguments in steps), default=0)
    return Declared(results, mode, len(regular) + len(init), min(reserve, LIMIT))


def results_volume(pod: Tree) -> tuple[int, Tree] | None:
    """Index and tree of the results' volume where it may be ours: Tekton's emptyDir, or what was put there."""
    for index, volume in enumerate((pod.get("spec") or {}).get("volumes") or []):
        if volume.get("name") == VOLUME and ("emptyDir" in volume or is_ours(volume)):
            return index, volume
    return None


def results_mounts(pod: Tree) -> Iterator[tuple[str, int, int]]:
    """Where containers mount the results' volume and say nothing of propagation: list of containers, indexes of the
    container and of its mount.

    Left out are mounts that Kubernetes would refuse propagation for: those that are recursively read-only (core/v1
    VolumeMount).
    """
    spec = pod.get("spec") or {}
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(kind) or []):
            for index, mount in enumerate(container.get("volumeMounts") or []):
                if mount.get("name") != VOLUME or mount.get("mountPropagation"):
                    continue
                if mount.get("recursiveReadOnly", "Disabled") == "Disabled":
                    yield kind, number, index


def unserved(pod: Tree, runtime_classes: Sequence[str]) -> str:
    """Why a pod cannot have the node driver's volume, in words; empty where it can.

    `runtime_classes`: patterns of those whose pods cannot. For Windows by the selector that Tekton goes by, too
    (pkg/pod/pod.go, usesWindows).
    """
    spec = pod.get("spec") or {}
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    if system == "windows":
        return "it is for Windows"
    runtime = spec.get("runtimeClassName") or ""
    if any(fnmatch.fnmatchcase(runtime, pattern) for pattern in runtime_classes if runtime):
        return f"its runtimeClassName is {runtime!r} (setting skipped-runtime-classes)"
    return ""


def is_ours(volume: Tree) -> bool:
    """Whether a volume is the node driver's."""
    return (volume.get("csi") or {}).get("driver") == DRIVER


def _entrypoint(container: Tree) -> list[str] | None:
    """The entrypoint's own arguments; what follows `--` is the step's."""
    if (container.get("command") or [])[:1] != [ENTRYPOINT]:
        return None
    arguments: list[str] = [*container["command"][1:], *(container.get("args") or [])]
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _sidecar(container: Tree) -> str | None:
    command: list[str] = [*(container.get("command") or []), *(container.get("args") or [])]
    if command[:1] != [SIDECAR]:
        return None
    return _option(command, "-result-names") or ""


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of a Go flag: `-x v`, `--x v` or `-x=v`."""
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in (name, f"-{name}"):
            if equals:
                return value
            return arguments[index + 1] if index + 1 < len(arguments) else None
    return None


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in (text or "").split(",") if name))


def _reserve(arguments: Sequence[str], results: Sequence[str]) -> int:
    return sum(_others(arguments, results))


def _others(arguments: Sequence[str], results: Sequence[str]) -> Iterator[int]:
    for name in _names(_option(arguments, "-step_results")):
        yield entry_cost(name, _STEP_RESULT)
    if "-enable_spire" in arguments:
        yield entry_cost("SVID", _SVID)
        yield from (entry_cost(f"{name}.sig", _SIGNATURE) for name in results)
        yield entry_cost("RESULT_MANIFEST", len(",".join(results)))
        yield entry_cost("RESULT_MANIFEST.sig", _SIGNATURE)
