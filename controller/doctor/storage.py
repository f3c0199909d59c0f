"""The store, as those who use it see it: asked through the API server, for nobody else may reach it."""

from __future__ import annotations

import json
import re

from controller.doctor.view import PODS, View, failed, few, is_ready, warned, well
from controller.kube.errors import ApiError
from controller.kube.resources import Tree
from resultsfs.cli.checks import Check

_CONTROLLER_PORT, _MOUNTER_PORT = 9812, 9811
_SAID = re.compile(r"the store does not answer: (.*)$", re.MULTILINE)
_ANSWERS = re.compile(r"^resultsfs_store_answers ([0-9.]+)$", re.MULTILINE)
_MOST = 50
"""Mounters that are asked; more would take minutes."""


def controllers(view: View) -> Check:
    """Each replica of the controller writes, reads and deletes a small object."""
    store = view.settings().store or "the store"
    replicas = [pod for pod in view.pods("controller") if is_ready(pod)]
    if not replicas:
        cure = f"first mend the controller: kubectl --namespace {view.namespace} get pods"
        return failed("store", f"{store}: no replica of the controller is there to ask", cure)
    found = []
    for pod in replicas:
        try:
            found.append(json.loads(view.kube.raw(_proxied(view, pod, _CONTROLLER_PORT, "store"))))
        except ApiError as error:
            cure = "let the API server reach port 9812 of the controller: networkPolicy.metricsFrom of the chart"
            return warned("store", f"{store}: {pod['metadata']['name']} could not be asked: {error}", cure)
        if not found[-1]["answers"]:
            said = _log(view, pod) or found[-1]["cause"]
            cure = (
                "check the settings store and s3-*, the credentials (store.secretName, or the service accounts' annotations) "
                "and the network from the pods to the store"
            )
            return failed("store", f"{store}: {said}", cure)
    slowest = max(found, key=lambda one: one["written"] + one["read"])
    return well("store", f"{store}: written in {slowest['written']} ms, read in {slowest['read']} ms")


def _proxied(view: View, pod: Tree, port: int, path: str) -> str:
    return f"{PODS.path(view.namespace)}/{pod['metadata']['name']}:{port}/proxy/{path}"


def _log(view: View, pod: Tree) -> str:
    """What the store said, from the replica's log."""
    path = f"{PODS.path(view.namespace, pod['metadata']['name'], 'log')}?container=controller&tailLines=200"
    try:
        said: list[str] = _SAID.findall(view.kube.raw(path).decode("utf-8", "replace"))
    except ApiError:
        return ""  # the error's name is told in its place
    return said[-1] if said else ""


def mounters(view: View) -> Check:
    """Whether the nodes' last uploads succeeded."""
    pods = [pod for pod in view.pods("node") if is_ready(pod)]
    failing, unasked = [], []
    for pod in pods[:_MOST]:
        node = str(pod["spec"].get("nodeName"))
        try:
            found = _ANSWERS.search(view.kube.raw(_proxied(view, pod, _MOUNTER_PORT, "metrics")).decode())
        except ApiError as error:
            unasked.append(f"{node} ({error})")
            continue
        if found is not None and float(found[1]) == 0:
            failing.append(node)
    if failing:
        cure = (
            f"kubectl --namespace {view.namespace} logs daemonset/resultsfs-node --container mounter has the store's own words; "
            "a node without large results tells it until its next upload"
        )
        return warned("uploads", f"the last upload failed on {few(failing)}", cure)
    if unasked:
        cure = "let the API server reach port 9811 of the node pods: networkPolicy.metricsFrom of the chart"
        return warned("uploads", f"could not be asked: {few(unasked, 1)}", cure)
    if not pods:
        return warned("uploads", "no mounter is there to ask", "first mend the node driver")
    more = f", {len(pods) - _MOST} more were not asked" if len(pods) > _MOST else ""
    return well("uploads", f"no upload fails on {min(len(pods), _MOST)} nodes{more}")
