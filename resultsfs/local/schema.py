"""The fields of Tekton's objects: which the local runner uses, which it may leave aside, which it refuses.

Field names from tektoncd/pipeline `pkg/apis/pipeline/{v1,v1beta1}/swagger.json`. A field that is in no table is
unknown to Tekton and an error too, so that none is ever ignored by oversight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resultsfs.errors import InvalidSetting
from resultsfs.local.checks import (
    Check,
    Where,
    anything,
    count,
    fields,
    flag,
    list_of,
    mapping_of,
    named,
    one_of,
    only_in_beta,
    only_when_false,
    param_value,
    refused,
    refused_because,
    text,
)
from resultsfs.settings import Settings

_IMAGES = "images are not run"


def _annotations(value: Any, where: Where) -> None:
    """Texts by name; ours must mean something, wherever they stand."""
    mapping_of(text)(value, where)
    try:
        Settings().narrowed(value)
    except InvalidSetting as error:
        raise where.error(f"are refused: {error}") from None


_NOTE = {"description": text, "displayName": text}

_CONTAINER: dict[str, Check] = {
    "image": text,
    "command": list_of(text),
    "args": list_of(text),
    "env": named(
        fields({"name": text, "value": text, "valueFrom": refused_because("give the value itself")}, required=("name",))
    ),
    "workingDir": text,
    "imagePullPolicy": anything,
    "securityContext": anything,
    "computeResources": anything,
    "resources": only_in_beta(anything),
    "terminationMessagePath": only_in_beta(anything),
    "terminationMessagePolicy": only_in_beta(anything),
    "envFrom": refused_because("list the variables under env"),
    "volumeMounts": refused_because("use a workspace"),
    "volumeDevices": refused,
    "tty": only_in_beta(only_when_false),
    "stdin": only_in_beta(only_when_false),
    "stdinOnce": only_in_beta(only_when_false),
    "ports": only_in_beta(refused),
    "lifecycle": only_in_beta(refused),
    "livenessProbe": only_in_beta(refused),
    "readinessProbe": only_in_beta(refused),
    "startupProbe": only_in_beta(refused),
}

_PARAM = fields({"name": text, "value": param_value}, required=("name",))
PARAMS = named(_PARAM)
_TYPE = one_of("string", "array", "object")
_PROPERTIES = mapping_of(fields({"type": one_of("string")}))
_PARAM_SPECS = named(
    fields(
        {
            "name": text,
            "type": _TYPE,
            "description": text,
            "default": param_value,
            "properties": _PROPERTIES,
            "enum": list_of(text),
        },
        required=("name",),
    )
)
_STEP = fields(
    {
        **_CONTAINER,
        **_NOTE,
        "name": text,
        "script": text,
        "onError": one_of("stopAndFail", "continue", variable=True),
        "timeout": text,
        "stdoutConfig": fields({"path": text}, required=("path",)),
        "stderrConfig": fields({"path": text}, required=("path",)),
        "ref": refused_because("write the StepAction's step here"),
        "params": refused_because("they belong to a StepAction"),
        "results": refused_because("declare the result on the task"),
        "when": refused_because("put `when` on the pipeline task"),
        "workspaces": refused_because("declare the workspace on the task"),
    }
)
_TASK_SPEC: dict[str, Check] = {
    **_NOTE,
    "params": _PARAM_SPECS,
    "results": named(
        fields(
            {
                "name": text,
                "type": _TYPE,
                "description": text,
                "properties": _PROPERTIES,
                "value": refused_because("it takes step results, which are not supported"),
            },
            required=("name",),
        )
    ),
    "workspaces": named(
        fields({"name": text, "description": text, "mountPath": text, "optional": flag, "readOnly": flag})
    ),
    "steps": list_of(_STEP),
    "stepTemplate": fields(_CONTAINER),
    "sidecars": refused_because(_IMAGES),
    "volumes": refused_because("use a workspace"),
    "resources": only_in_beta(refused_because("PipelineResources are gone from Tekton")),
}
TASK_SPEC = fields(_TASK_SPEC, required=("steps",))
"""A Task's or TaskRun's spec of steps."""

_NAMES_ONLY = {
    "resolver": refused_because("put the object into the same file and refer to it by name"),
    "params": refused_because("put the object into the same file and refer to it by name"),
    "bundle": only_in_beta(refused_because("put the object into the same file and refer to it by name")),
}
_REF_VERSION = one_of("tekton.dev/v1", "tekton.dev/v1beta1")
_TASK_REF = fields(
    {"name": text, "kind": one_of("Task", "task"), "apiVersion": _REF_VERSION, **_NAMES_ONLY}, required=("name",)
)
_PIPELINE_REF = fields({"name": text, "apiVersion": _REF_VERSION, **_NAMES_ONLY}, required=("name",))
_ONLY_METADATA = fields({"labels": anything, "annotations": _annotations})

_BINDINGS = named(
    fields(
        {
            "name": text,
            "subPath": text,
            "emptyDir": anything,
            "persistentVolumeClaim": fields({"claimName": text, "readOnly": only_when_false}, required=("claimName",)),
            "volumeClaimTemplate": anything,
            "configMap": refused,
            "secret": refused,
            "projected": refused,
            "csi": refused,
        }
    )
)
_WHEN = list_of(
    fields(
        {
            "input": text,
            "operator": one_of("in", "notin"),
            "values": list_of(text),
            "cel": refused_because("use input, operator and values"),
        },
        required=("operator", "values"),
    )
)
_PIPELINE_TASK = fields(
    {
        **_NOTE,
        "name": text,
        "taskRef": _TASK_REF,
        "taskSpec": fields(
            {
                **_TASK_SPEC,
                "metadata": _ONLY_METADATA,
                "apiVersion": refused_because("custom tasks need their controller"),
                "kind": refused_because("custom tasks need their controller"),
                "spec": refused_because("custom tasks need their controller"),
            },
            required=("steps",),
        ),
        "params": PARAMS,
        "matrix": fields({"params": PARAMS, "include": list_of(fields({"name": text, "params": PARAMS}))}),
        "when": _WHEN,
        "runAfter": list_of(text),
        "retries": count,
        "timeout": text,
        "onError": one_of("stopAndFail", "continue", variable=True),
        "workspaces": named(fields({"name": text, "workspace": text, "subPath": text})),
        "pipelineRef": refused_because("pipelines in pipelines are not run"),
        "pipelineSpec": refused_because("pipelines in pipelines are not run"),
        "resources": only_in_beta(refused_because("PipelineResources are gone from Tekton")),
    },
    required=("name",),
)
PIPELINE_SPEC = fields(
    {
        **_NOTE,
        "params": _PARAM_SPECS,
        "tasks": named(_PIPELINE_TASK),
        "finally": named(_PIPELINE_TASK),
        "results": named(
            fields({"name": text, "type": _TYPE, "description": text, "value": param_value}, required=("value",))
        ),
        "workspaces": named(fields({"name": text, "description": text, "optional": flag})),
        "resources": only_in_beta(refused_because("PipelineResources are gone from Tekton")),
    },
    required=("tasks",),
)
"""A Pipeline's or PipelineRun's spec of tasks."""

_POD_TEMPLATE = fields(
    {
        "env": refused_because("give the variables to the steps"),
        "volumes": refused_because("use a workspace"),
        **dict.fromkeys(
            [
                "affinity",
                "automountServiceAccountToken",
                "dnsConfig",
                "dnsPolicy",
                "enableServiceLinks",
                "hostAliases",
                "hostNetwork",
                "hostUsers",
                "imagePullSecrets",
                "nodeSelector",
                "priorityClassName",
                "runtimeClassName",
                "schedulerName",
                "securityContext",
                "tolerations",
                "topologySpreadConstraints",
            ],
            anything,
        ),
    }
)
_NO_STATUS = refused_because("a run cannot be cancelled, stopped or held back before it starts")
TASK_RUN_SPEC = fields(
    {
        "params": PARAMS,
        "taskRef": _TASK_REF,
        "taskSpec": TASK_SPEC,
        "workspaces": _BINDINGS,
        "timeout": text,
        "retries": count,
        "serviceAccountName": anything,
        "computeResources": anything,
        "podTemplate": _POD_TEMPLATE,
        "stepSpecs": anything,
        "sidecarSpecs": refused_because(_IMAGES),
        "stepOverrides": only_in_beta(anything),
        "sidecarOverrides": only_in_beta(refused_because(_IMAGES)),
        "status": _NO_STATUS,
        "statusMessage": _NO_STATUS,
        "debug": refused,
        "managedBy": refused,
        "resources": only_in_beta(refused_because("PipelineResources are gone from Tekton")),
    }
)
"""A TaskRun's spec."""

PIPELINE_RUN_SPEC = fields(
    {
        "params": PARAMS,
        "pipelineRef": _PIPELINE_REF,
        "pipelineSpec": PIPELINE_SPEC,
        "workspaces": _BINDINGS,
        "timeouts": fields({"pipeline": text, "tasks": text, "finally": text}),
        "timeout": only_in_beta(text),
        "taskRunTemplate": fields({"podTemplate": _POD_TEMPLATE, "serviceAccountName": anything}),
        "podTemplate": only_in_beta(_POD_TEMPLATE),
        "serviceAccountName": only_in_beta(anything),
        "taskRunSpecs": list_of(
            fields(
                {
                    "pipelineTaskName": text,
                    "timeout": text,
                    "metadata": _ONLY_METADATA,
                    "computeResources": anything,
                    "serviceAccountName": anything,
                    "podTemplate": _POD_TEMPLATE,
                    "stepSpecs": anything,
                    "sidecarSpecs": refused_because(_IMAGES),
                    "taskServiceAccountName": only_in_beta(anything),
                    "taskPodTemplate": only_in_beta(_POD_TEMPLATE),
                    "stepOverrides": only_in_beta(anything),
                    "sidecarOverrides": only_in_beta(refused_because(_IMAGES)),
                },
                required=("pipelineTaskName",),
            )
        ),
        "status": _NO_STATUS,
        "managedBy": refused,
        "resources": only_in_beta(refused_because("PipelineResources are gone from Tekton")),
    }
)
"""A PipelineRun's spec."""

METADATA = fields(
    {
        "name": text,
        "generateName": text,
        "namespace": text,
        "annotations": _annotations,
        **dict.fromkeys(
            [
                "labels",
                "uid",
                "creationTimestamp",
                "generation",
                "resourceVersion",
                "selfLink",
                "managedFields",
                "ownerReferences",
                "finalizers",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ],
            anything,
        ),
    }
)
"""An object's metadata: what the API server writes there may stand, without effect."""

SPECS: Mapping[str, Check] = {
    "Task": TASK_SPEC,
    "Pipeline": PIPELINE_SPEC,
    "TaskRun": TASK_RUN_SPEC,
    "PipelineRun": PIPELINE_RUN_SPEC,
}
"""The kinds that can be loaded, with their specs."""
