"""JSON patch operations (RFC 6902) for the few changes that admission makes."""

from __future__ import annotations

from typing import Any

from controller.kube.resources import Tree


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def replace(value: Any, *parts: str | int) -> Tree:
    """The operation that puts a value in place of another."""
    return {"op": "replace", "path": pointer(*parts), "value": value}


def add(value: Any, *parts: str | int) -> Tree:
    """The operation that puts a value where there is none, or in place of the one there is."""
    return {"op": "add", "path": pointer(*parts), "value": value}


def annotate(tree: Tree, name: str, text: str | None) -> list[Tree]:
    """What sets one annotation, or removes it where `text` is None; nothing where that changes nothing."""
    metadata = tree.get("metadata")
    annotations = (metadata or {}).get("annotations")
    found = (annotations or {}).get(name)
    if found == text:
        return []
    if text is None:
        return [{"op": "remove", "path": pointer("metadata", "annotations", name)}]
    if metadata is None:
        return [{"op": "add", "path": pointer("metadata"), "value": {"annotations": {name: text}}}]
    if annotations is None:
        return [{"op": "add", "path": pointer("metadata", "annotations"), "value": {name: text}}]
    return [{"op": "add", "path": pointer("metadata", "annotations", name), "value": text}]
