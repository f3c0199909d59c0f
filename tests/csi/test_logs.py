"""What is logged of requests, and what never is."""

from __future__ import annotations

import re

import grpc
import pytest
from google.protobuf.message import Message

from csi.logs import REDACTED, loggable
from csi.names import TOKENS
from csi.proto import csi_pb2
from tests.support.node import Node

SECRET = "do-not-log-me"


def test_secrets_and_tokens_are_left_out() -> None:
    """What the specification marks as secret, and the kubelet's tokens, are not in the log's version of a request."""
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="csi-1",
        secrets={"password": SECRET},
        volume_context={TOKENS: f'{{"audience": {{"token": "{SECRET}"}}}}', "results": "report"},
        publish_context={"device": "x"},
    )
    found = loggable(request)
    assert SECRET not in repr(found)
    assert found["secrets"] == REDACTED
    assert found["volume_context"] == {TOKENS: REDACTED, "results": "report"}
    assert found["volume_id"] == "csi-1"
    assert found["publish_context"] == {"device": "x"}


@pytest.mark.parametrize(
    "request_",
    [
        csi_pb2.NodeStageVolumeRequest(secrets={"k": SECRET}),
        csi_pb2.NodeExpandVolumeRequest(secrets={"k": SECRET}),
        csi_pb2.CreateVolumeRequest(secrets={"k": SECRET}),
        csi_pb2.ControllerPublishVolumeRequest(secrets={"k": SECRET}),
        csi_pb2.NodePublishVolumeRequest(volume_context={"csi.storage.k8s.io/serviceAccount.Tokens.new": SECRET}),
    ],
)
def test_every_request_with_secrets(request_: Message) -> None:
    """So it is for every kind of request, also for keys of the kubelet's that are yet to come."""
    assert SECRET not in repr(loggable(request_))


def test_unknown_fields_are_not_shown() -> None:
    """A field of a later specification, which could be a secret, is not shown."""
    request = csi_pb2.NodePublishVolumeRequest.FromString(
        csi_pb2.NodePublishVolumeRequest(volume_id="v").SerializeToString() + b"\xca\x3e\x0d" + SECRET.encode()
    )
    assert loggable(request) == {"volume_id": "v"}


def test_the_driver_logs_every_request_once_without_secrets(fresh_node: Node) -> None:
    """One line a request, good or bad, with its status code; neither log nor disk has a token or secret."""
    volume, bad = fresh_node.volume(), fresh_node.volume(containers="0")
    for one in (volume, bad):
        one.context[TOKENS] = SECRET
    volume.publish(secrets={"password": SECRET})
    with pytest.raises(grpc.RpcError):
        bad.publish(secrets={"password": SECRET})
    volume.unpublish()
    log = fresh_node.driver.log()
    assert SECRET not in fresh_node.logs()
    for volume_id, codes in ((volume.volume_id, ["OK", "OK"]), (bad.volume_id, ["INVALID_ARGUMENT"])):
        lines = re.findall(rf"csi\.logs: \w+ (\w+) [\d.]+ ms .*{volume_id}", log)
        assert lines == codes
    assert "containers is '0'" in log
    for path in fresh_node.state.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
