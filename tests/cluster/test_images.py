"""Images are the same, byte for byte, for the same content, and are made once; needs no cluster."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from scripts import image_requirements
from tests.cluster.images import archive, layers
from tests.cluster.images.archive import Image
from tests.cluster.images.layers import Entry, Layer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return layers.cache_directory()


def layer(name: str, *entries: Entry) -> Layer:
    """A layer of these entries."""
    return layers.cached(name, repr(entries), lambda tar: layers.write_entries(tar, list(entries)))


def test_a_tree_has_one_digest(tmp_path: Path) -> None:
    """Neither time, owner nor the order of creation change a layer; a mode and a link's target do."""
    digests = []
    for number, names in enumerate((("a", "b/c"), ("b/c", "a"))):
        root = tmp_path / str(number)
        (root / "b").mkdir(parents=True)
        for name in names:
            (root / name).write_text(name)
            os.utime(root / name, (number, number))
        (root / "link").symlink_to("a")
        layers.write_tree(tmp_path / f"{number}.tar", root)
        digests.append(layers.sha256(tmp_path / f"{number}.tar"))
    assert digests[0] == digests[1]
    (root / "a").chmod(0o755)
    layers.write_tree(tmp_path / "mode.tar", root)
    assert layers.sha256(tmp_path / "mode.tar") != digests[0]


def test_what_no_layer_can_hold_is_refused(tmp_path: Path) -> None:
    """A pipe in a tree is an error that names it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: neither a file"):
        layers.write_tree(tmp_path.parent / f"{tmp_path.name}.tar", tmp_path)


def test_entries_bring_their_parents(tmp_path: Path) -> None:
    """Directories that entries lie in are in the tar before them, readable for all."""
    layers.write_entries(tmp_path / "x.tar", [Entry("usr/bin/tool", 0o755, b"#!"), Entry("tmp", 0o1777)])
    with tarfile.open(tmp_path / "x.tar") as tar:
        found = {member.name: (member.mode, member.isdir()) for member in tar}
    assert list(found) == ["tmp", "usr", "usr/bin", "usr/bin/tool"]
    assert found["usr/bin"] == (0o755, True)
    assert found["tmp"] == (0o1777, True)


def test_a_layer_is_made_once(cache: Path) -> None:
    """The same key is not made again, also when others were made since; of a name the last four stay."""
    made: list[str] = []

    def write(key: str, tar: Path) -> None:
        made.append(key)
        layers.write_entries(tar, [Entry("file", content=key.encode())])

    keys = [str(number) for number in range(6)]
    for key in [*keys, *keys[-4:]]:
        layers.cached("name", key, lambda tar, key=key: write(key, tar))  # type: ignore[misc]
    assert made == keys
    assert len(list(cache.glob("name-*.tar"))) == 4
    assert len(list(cache.glob("name-*.json"))) == 4


def test_a_layer_that_was_lost_is_made_again(cache: Path) -> None:
    """A record whose tar is gone or cut is not believed."""
    first = layer("name", Entry("file", content=b"x"))
    first.path.write_bytes(b"cut")
    again = layer("name", Entry("file", content=b"x"))
    assert again == first
    assert layers.sha256(again.path) == again.digest


def test_an_archive_holds_what_its_index_says() -> None:
    """Every blob has the digest that it is named by; a layer that two images share is there once."""
    shared, own = layer("shared", Entry("a", content=b"a")), layer("own", Entry("b", content=b"b"))
    images = [Image("x.test/one", (shared,), tag="1"), Image("x.test/two", (shared, own), command=("/b",))]
    file = io.BytesIO()
    archive.write(file, images)
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        content = {name: file.read() for name, file in files.items() if file is not None}
    blobs = {name.rpartition("/")[2]: blob for name, blob in content.items() if name.startswith("blobs/")}
    assert all(hashlib.sha256(blob).hexdigest() == name for name, blob in blobs.items())
    assert len(blobs) == 2 + 2 * len(images)
    named = {
        entry["annotations"]["io.containerd.image.name"]: json.loads(blobs[entry["digest"][7:]])
        for entry in json.loads(content["index.json"])["manifests"]
    }
    assert set(named) == {"x.test/one:1", images[1].reference}
    config = json.loads(blobs[named[images[1].reference]["config"]["digest"][7:]])
    assert config["rootfs"]["diff_ids"] == [shared.digest, own.digest]
    assert config["config"]["Cmd"] == ["/b"]


def test_an_archive_leaves_out_what_is_there() -> None:
    """A layer that the reader has is not sent again; configuration and manifest always are."""
    shared, own = layer("shared", Entry("a", content=b"a")), layer("own", Entry("b", content=b"b"))
    image = Image("x.test/two", (shared, own))
    file = io.BytesIO()
    archive.write(file, [image], without={shared.digest, image.digest})
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        found = {f"sha256:{name.rpartition('/')[2]}" for name in tar.getnames() if name.startswith("blobs/")}
    assert found == set(image.blobs()) - {shared.digest}


def test_the_image_gets_no_tools_of_tests() -> None:
    """The image's requirements are the base's and the parts', stores only on demand."""
    plain = image_requirements.requirements()
    assert any(line.startswith("fusepy") for line in plain)
    assert not any(line.startswith(("pytest", "gcsfs", "resultsfs")) for line in plain)
    assert set(image_requirements.requirements(("gs",))) - set(plain) == {"gcsfs>=2025.3,<2027"}
    with pytest.raises(ValueError, match="no such extra to choose: 'test'"):
        image_requirements.requirements(("test",))
