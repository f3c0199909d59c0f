"""The images of the cluster: Tekton's own, those that steps run in, and the project's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts import image_requirements
from tests.cluster.images.archive import Image
from tests.cluster.images.layers import Entry, Layer, cached, scratch, write_entries, write_tree
from tests.cluster.machine import golang
from tests.support import tekton

CHECKOUT = Path(__file__).parent.parent.parent.parent
REGISTRY = "resultsfs.test"
"""No such host: what is not on the node already fails to be pulled, and says so."""
NONROOT = 65532
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

_USERS = [
    Entry("etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/sh\n"),
    Entry("etc/group", content=b"root:x:0:\nnonroot:x:65532:\n"),
    Entry("tmp", 0o1777),
    Entry("root", 0o700),
]


def busybox() -> Image:
    """What most steps run in, and Tekton's shell image: busybox with a link for each applet, as root."""
    return Image(f"{REGISTRY}/busybox", (_busybox(),), tag="1", command=("sh",))


def python() -> Image:
    """For steps that need Python or bash; busybox does the rest."""
    return Image(
        f"{REGISTRY}/python", (_base(), _busybox()), tag="3.11", command=("python3",), environment=_ENVIRONMENT
    )


def project() -> Image:
    """The project: Python, the libraries it needs, and this checkout's packages as the uppermost layer."""
    layers = (_base(), _sources())
    return Image(f"{REGISTRY}/resultsfs", layers, command=("resultsfs", "--help"), environment=_ENVIRONMENT)


def tekton_image(program: str) -> Image:
    """One of Tekton's programs where `ko` would put it: `/ko-app/<program>`, run as its base image's user."""
    return Image(
        f"{REGISTRY}/tekton/{program}",
        (
            cached("static", repr(_USERS), lambda tar: write_entries(tar, _USERS)),
            _single(f"ko-app/{program}", tekton.program(program)),
        ),
        entrypoint=(f"/ko-app/{program}",),
        environment={"KO_DATA_PATH": "/var/run/ko"},
        user=str(NONROOT),
    )


def sidecar(name: str) -> Image:
    """One of the sidecars of a CSI driver, `registrar` or `livenessprobe`."""
    program = next(program for program in golang.sidecars() if program.name == name)
    golang.build([program])
    return Image(f"{REGISTRY}/{name}", (_single(name, program.path),), entrypoint=(f"/{name}",))


def everything() -> list[Image]:
    """All images that pods of the cluster run. Raises NoGo, and ClusterError where one cannot be built."""
    ours = [busybox(), python(), project(), sidecar("registrar"), sidecar("livenessprobe")]
    return [*ours, *(tekton_image(name) for name in tekton.PROGRAMS)]


def _single(name: str, program: Path) -> Layer:
    """A layer of one program; the key is its path, which names what it was built from."""
    entries = [Entry(name, 0o755, program)]
    return cached(name.replace("/", "-"), str(program), lambda tar: write_entries(tar, entries))


def _busybox() -> Layer:
    """Debian's statically linked busybox and bash."""

    def write(tar: Path) -> None:
        with scratch() as directory:
            download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "busybox-static", "bash-static"]
            subprocess.run(download, cwd=directory, check=True, timeout=300)
            root = directory / "root"
            for package in directory.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, root], check=True, timeout=60)
            binary = next(root.rglob("bin/busybox"))
            listed = subprocess.run([binary, "--list-full"], check=True, capture_output=True, text=True, timeout=60)
            links = {name: "/bin/busybox" for name in listed.stdout.split() if name not in ("bin/busybox", "linuxrc")}
            bash = next(root.rglob("bin/bash-static"))
            links |= {"usr/bin/env": "/bin/busybox", "bin/sh": "/bin/busybox"}
            entries = [Entry("bin/busybox", 0o755, binary), Entry("bin/bash", 0o755, bash), *_USERS]
            write_entries(tar, [*entries, *(Entry(name, 0o777, link=link) for name, link in links.items())])

    return cached("busybox", f"2 {_USERS}", write)


def _base() -> Layer:
    """What deploy/image/rootfs makes: Debian's Python and the libraries of pyproject.toml."""
    requirements = image_requirements.requirements()
    image = CHECKOUT / "deploy" / "image"
    key = "\n".join([*requirements, (image / "packages").read_text(), (image / "rootfs").read_text()])

    def write(tar: Path) -> None:
        with scratch() as directory:
            (directory / "requirements").write_text("\n".join(requirements) + "\n")
            command = [image / "rootfs", directory / "root", directory / "requirements"]
            subprocess.run(command, check=True, timeout=1200, env=os.environ | {"PYTHON": sys.executable})
            write_tree(tar, directory / "root")

    return cached("base", key, write)


def _sources() -> Layer:
    """What deploy/image/project makes of this checkout."""
    script = CHECKOUT / "deploy" / "image" / "project"
    files = [
        path
        for package in ("resultsfs", "csi", "controller")
        for path in sorted((CHECKOUT / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    key = "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in [script, *files])

    def write(tar: Path) -> None:
        with scratch() as directory:
            environment = os.environ | {"PYTHON": sys.executable}
            subprocess.run([script, directory / "root"], check=True, timeout=120, env=environment)
            write_tree(tar, directory / "root")

    return cached("sources", key, write)
