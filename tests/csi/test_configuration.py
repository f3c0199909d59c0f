"""The driver's configuration: refused at the start with the reason, taken up while running; metrics and health."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.node import Node, VolumeOf, running
from tests.support.waiting import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")


def get(port: int, path: str) -> str:
    """What a process answers over HTTP."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            found: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    return found


def metric(port: int, name: str) -> float:
    """One sample's value; labels belong to the name."""
    match = re.search(rf"^{re.escape(name)} (\S+)$", get(port, "/metrics"), re.M)
    assert match is not None, name
    return float(match[1])


def refused(*arguments: str) -> str:
    """What a process says that does not start."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("KUBERNETES_")}
    done = subprocess.run(
        [sys.executable, "-m", "csi", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("result-size-treshold: 1KiB", "unknown setting 'result-size-treshold'"),
        ("store: bucket", "store is 'bucket'"),
        ("spill-delay: 1s", "store is not set"),
        ("store: s4://bucket", "unknown scheme 's4'"),
        (
            "node-disk-reserve: 91%\nstore: memory://",
            "node-disk-reserve is '91%': expected at least 0% and at most 90%",
        ),
        ("[", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_refused_at_start(tmp_path: Path, text: str, words: str) -> None:
    """The mounter does not start with wrong settings, and says the file, the key, the value and what is allowed."""
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    common = ["--node-id", "n", "--state", str(tmp_path / "state"), "--metrics", "127.0.0.1:0"]
    said = refused("mounter", *common, "--settings", str(path), "--no-api")
    assert words in said
    assert str(path) in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["driver", "--node-id", "n", "--endpoint", "tcp://0.0.0.0:1", "--kubelet", "/tmp"],
            "expected unix:///csi/csi.sock",
        ),
        (["driver", "--node-id", "", "--kubelet", "/tmp"], "--node-id is ''"),
        (["driver", "--node-id", "n", "--kubelet", "/nowhere"], "--kubelet is '/nowhere'"),
        (["driver", "--node-id", "n", "--kubelet", "/tmp", "--mounter", "ftp://x"], "expected a URL"),
        (["driver", "--node-id", "n", "--kubelet", "/tmp", "--metrics", "x"], "expected [host]:port"),
        (["mounter", "--node-id", "n", "--settings", "/nowhere"], "KUBERNETES_SERVICE_HOST is not set"),
        (["driver", "--node-id", "n", "--kubelet", "/tmp"], "KUBERNETES_SERVICE_HOST is not set"),
    ],
)
def test_wrong_options_are_refused_at_start(tmp_path: Path, arguments: list[str], words: str) -> None:
    """So it is with options."""
    api = [] if words.startswith("KUBERNETES") else ["--no-api"]
    assert words in refused(*arguments, "--state", str(tmp_path), *api)


def test_the_drivers_socket_replaces_no_file(tmp_path: Path) -> None:
    """A path that is no socket is not removed."""
    path = tmp_path / "csi.sock"
    path.write_text("somebody's")
    options = ["--node-id", "n", "--kubelet", str(tmp_path), "--state", str(tmp_path), "--metrics", "127.0.0.1:0"]
    assert "is no socket" in refused("driver", *options, "--no-api", "--endpoint", f"unix://{path}")
    assert path.read_text() == "somebody's"


def test_settings_are_taken_up_while_running(fresh_node: Node) -> None:
    """New volumes get changed settings, those that are published keep theirs until another mounter serves them; bad ones
    are told and change nothing."""
    port = fresh_node.ports()["mounter"]
    before = fresh_node.volume()
    target = before.publish()
    fresh_node.write_settings(volume_size_limit="1MiB")
    eventually(lambda: metric(port, 'resultsfs_settings_reloads_total{outcome="applied"}') == 1)
    after = fresh_node.volume()
    with pytest.raises(OSError, match="No space left"):
        (after.publish() / "report").write_bytes(bytes(2 << 20))
    (target / "report").write_bytes(bytes(2 << 20))
    fresh_node.write_settings(volume_size_limit="many")
    eventually(lambda: metric(port, 'resultsfs_settings_reloads_total{outcome="refused"}') == 1)
    assert "volume-size-limit is 'many'" in fresh_node.mounter.log()
    fresh_node.write_settings(store="s4://bucket")
    eventually(lambda: metric(port, 'resultsfs_settings_reloads_total{outcome="refused"}') == 2)
    assert "unknown scheme 's4'" in fresh_node.mounter.log()
    last = fresh_node.volume()
    with pytest.raises(OSError, match="No space left"):
        (last.publish() / "report").write_bytes(bytes(2 << 20))
    fresh_node.write_settings(volume_size_limit="1MiB")
    fresh_node.mounter.kill9()
    fresh_node.start_mounter()
    with pytest.raises(OSError, match="No space left"):
        (target / "report").write_bytes(bytes(3 << 20))
    assert (target / "report").stat().st_size <= 2 << 20
    for volume in (before, after, last):
        volume.unpublish()


@pytest.mark.mount
@needs_root
def test_a_store_that_is_down_from_the_start() -> None:
    """Volumes are published and small results collected without a store; the mounter's health names it, and is good."""
    settings = {
        "store": "s3://bucket",
        "s3-endpoint": "http://127.0.0.1:9",
        "spill-deadline": "1s",
        "store-timeout": "1s",
    }
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_REGION": "us-east-1"}
    with running(settings=settings | {"store-retries": "0"}, environment=keys) as node:
        volume = node.volume(results="report,small")
        target = volume.publish()
        (target / "small").write_text("small")
        (target / "report").write_bytes(bytes(10_000))
        entrypoint = volume.bring_entrypoint()
        small = subprocess.run([entrypoint, target / "small"], capture_output=True, timeout=90, check=True)
        assert small.stdout == b"small"
        subprocess.run([entrypoint, target / "report"], capture_output=True, timeout=90, check=True)
        port = node.ports()["mounter"]
        health = json.loads(get(port, "/healthz"))
        assert health["ok"] is True
        assert health["holder"] == "connected"
        eventually(lambda: metric(port, "resultsfs_store_answers") == 0)
        assert json.loads(get(port, "/healthz"))["store"] in ("StoreUnavailable", "ResultSpillFailed")
        assert metric(port, 'resultsfs_errors_total{cause="ResultSpillFailed"}') == 1
        volume.unpublish()
        volume.gone()


def test_metrics(fresh_node: Node) -> None:
    """Both processes count what they do."""
    ports = fresh_node.ports()
    volume = fresh_node.volume(results="report,small")
    target = volume.publish()
    entrypoint = volume.bring_entrypoint()
    (target / "report").write_bytes(bytes(100_000))
    (target / "small").write_text("small")
    script = [entrypoint, target / "report", target / "small"]
    subprocess.run(script, capture_output=True, timeout=90, check=True)
    name = next(path.name for path in fresh_node.store.rglob("*") if re.fullmatch("[0-9a-f]{64}", path.name))
    mounter = ports["mounter"]
    assert name
    for form, size in (("inline", 5), ("spilled", 100_000)):
        assert metric(mounter, f'resultsfs_results_total{{form="{form}"}}') == 1
        assert metric(mounter, f'resultsfs_result_bytes_total{{form="{form}"}}') == size
    assert metric(mounter, "resultsfs_upload_duration_seconds_count") == 1
    assert metric(mounter, "resultsfs_upload_bytes_total") == 100_000
    assert metric(mounter, "resultsfs_mounts") == 1
    assert metric(mounter, "resultsfs_spool_bytes") == 100_005
    assert metric(mounter, "resultsfs_disk_free_bytes") > 0
    assert metric(mounter, "resultsfs_disk_full") == 0
    driver = ports["driver"]
    sample = 'resultsfs_csi_request_duration_seconds_count{code="OK",method="NodePublishVolume"}'
    assert metric(driver, sample) == 1
    fresh_node.mounter.kill9()
    fresh_node.start_mounter()
    mounter = fresh_node.ports()["mounter"]
    eventually(lambda: metric(mounter, "resultsfs_takeovers_total") == 1)
    volume.unpublish()
    eventually(lambda: metric(mounter, "resultsfs_mounts") == 0)
    eventually(lambda: metric(mounter, "resultsfs_spool_bytes") == 0)


def test_a_node_whose_disk_is_full(fresh_node: Node) -> None:
    """Beyond node-spool-limit, and with less free than node-disk-reserve, writes get ENOSPC, on all volumes of the node;
    what is there can be read, rewritten and removed, and room is given back."""
    port = fresh_node.ports()["mounter"]
    fresh_node.write_settings(node_spool_limit="3MiB")
    eventually(lambda: metric(port, 'resultsfs_settings_reloads_total{outcome="applied"}') == 1)
    assert metric(port, "resultsfs_spool_limit_bytes") == 3 << 20
    first, second = fresh_node.volume(), fresh_node.volume()
    (first.publish() / "report").write_bytes(bytes(2 << 20))
    with pytest.raises(OSError, match="No space left"):
        (second.publish() / "report").write_bytes(bytes(2 << 20))
    (second.target / "report").unlink()
    assert (first.target / "report").read_bytes() == bytes(2 << 20)
    (first.target / "report").write_bytes(b"less")
    eventually(lambda: metric(port, "resultsfs_spool_bytes") == 4)  # what was unlinked while open goes a moment later
    (second.target / "report").write_bytes(bytes(2 << 20))
    assert "NodeDiskFull" in fresh_node.mounter.log()
    assert "node-spool-limit" in fresh_node.mounter.log()
    (second.target / "report").unlink()
    free = os.statvfs(fresh_node.root)
    percent = min(90, free.f_bavail * 100 // free.f_blocks + 5)
    fresh_node.write_settings(node_disk_reserve=f"{percent}%")
    eventually(lambda: metric(port, "resultsfs_disk_full") == 1)
    with pytest.raises(OSError, match="No space left"):
        (second.target / "report").write_bytes(bytes(1 << 20))
    assert (first.target / "report").read_bytes() == b"less"
    fresh_node.write_settings()
    eventually(lambda: metric(port, "resultsfs_disk_full") == 0)
    (second.target / "other").write_bytes(bytes(2 << 20))
    first.unpublish()
    second.unpublish()


def test_one_volume_does_not_take_all_entries_of_a_node(fresh_node: Node) -> None:
    """Beyond three quarters of node-file-limit a volume with 1,000 entries makes no more (ENOSPC), and the others go on
    to the whole of it; what goes makes room, a mounter that takes over counts the same, unpublished volumes count no more."""

    def make(volume: VolumeOf, numbers: range) -> None:
        for number in numbers:
            os.mknod(volume.target / str(number))

    port = fresh_node.ports()["mounter"]
    fresh_node.write_settings(node_file_limit="2000")
    eventually(lambda: metric(port, 'resultsfs_settings_reloads_total{outcome="applied"}') == 1)
    many, few = fresh_node.volume(), fresh_node.volume()
    for volume in (many, few):
        volume.publish()
    make(many, range(1500))
    with pytest.raises(OSError, match="No space left"):
        make(many, range(1500, 1501))
    make(few, range(500))
    with pytest.raises(OSError, match="No space left"):
        make(few, range(500, 501))
    assert "node-file-limit (2,000)" in fresh_node.mounter.log()
    (many.target / "0").unlink()
    make(few, range(500, 501))
    fresh_node.mounter.kill9()
    fresh_node.start_mounter()
    port = fresh_node.ports()["mounter"]
    eventually(lambda: metric(port, "resultsfs_takeovers_total") == 2)
    assert metric(port, "resultsfs_spool_entries") == 2000
    with pytest.raises(OSError, match="No space left"):
        make(few, range(501, 502))
    many.unpublish()
    eventually(lambda: metric(port, "resultsfs_spool_entries") == 501)
    make(few, range(501, 502))
    few.unpublish()
    eventually(lambda: metric(port, "resultsfs_spool_entries") == 0)
