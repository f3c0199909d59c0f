"""Setting up: what `make install` asks the distribution for, and what it says where it cannot.

The distribution's own tools are stood in for by scripts that write down how they were called: no test may
install anything on the machine that it runs on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "system-packages"

PYTHON = """\
#!/bin/sh
case "$2" in
    *find_library*) [ -e "$HAVE/libfuse" ] ;;
    *ensurepip*) [ -e "$HAVE/venv" ] ;;
    *python%d*) echo python3.11-venv ;;
    *version_info*) [ ! -e "$HAVE/old" ] ;;
    *) echo "Python 3.9.2" ;;
esac
"""


class Machine:
    """A machine with only a few programs, and a log of what was asked of its package manager."""

    def __init__(self, path: Path) -> None:
        self.have = path / "have"
        self.bin = path / "bin"
        self.log = path / "log"
        self.have.mkdir()
        self.bin.mkdir()
        self.program("python3", PYTHON)
        self.program("id", "#!/bin/sh\nif [ -e $HAVE/root ]; then echo 0; else echo 1000; fi\n")
        for name in ("sh", "uname", "env"):
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def program(self, name: str, text: str) -> None:
        """Put a program on the PATH."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def logged(self, name: str, then: str = "") -> None:
        """Put a program on the PATH that notes its words, and then does `then`."""
        self.program(name, f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{then}\n')

    def has(self, *things: str) -> None:
        """What is installed already: libfuse, venv; what kind of machine: root, old."""
        for thing in things:
            (self.have / thing).touch()

    def debian(self, *, new: bool) -> None:
        """Give it apt; with `new`, one that has libfuse2t64."""
        self.logged("apt-get")
        self.program("apt-cache", f"#!/bin/sh\n{'true' if new else 'false'}\n")

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        environment = {"PATH": str(self.bin), "HAVE": str(self.have)}
        return subprocess.run(
            [SCRIPT, "python3"], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    @property
    def asked(self) -> list[str]:
        """What was logged."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A fresh machine without anything installed."""
    return Machine(tmp_path)


def test_nothing_is_installed_where_nothing_is_missing(machine: Machine) -> None:
    """With everything there, the package manager is not even asked."""
    machine.has("libfuse", "venv")
    machine.program("fusermount", "#!/bin/sh\n")
    machine.debian(new=True)
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr, machine.asked) == (0, "", "", [])


@pytest.mark.parametrize(("new", "library"), [(False, "libfuse2"), (True, "libfuse2t64")])
def test_root_installs_by_apt(machine: Machine, new: bool, library: str) -> None:
    """Root gets what is missing without sudo, by the name that the release has for it, and is told."""
    machine.has("root")
    machine.debian(new=new)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    packages = f"{library} fuse3 python3.11-venv"
    assert machine.asked == ["apt-get update -qq", f"apt-get install -y -qq --no-install-recommends {packages}"]
    assert f"apt-get install {packages}" in done.stdout


def test_others_install_by_sudo(machine: Machine) -> None:
    """Who is not root installs by sudo, and only what is missing."""
    machine.has("venv")
    machine.program("fusermount", "#!/bin/sh\n")
    machine.debian(new=False)
    machine.logged("sudo", 'exec "$@"')
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "with sudo" in done.stdout
    assert [line for line in machine.asked if line.startswith("sudo")] == [
        "sudo apt-get update -qq",
        "sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libfuse2",
    ]


def test_without_sudo_the_way_out_is_told(machine: Machine) -> None:
    """Who may not install is told what root has to, and nothing is tried."""
    machine.debian(new=False)
    done = machine.run()
    assert done.returncode == 1
    assert "apt-get install libfuse2 fuse3 python3-venv" in done.stderr and machine.asked == []


@pytest.mark.parametrize(
    ("manager", "words"), [("dnf", "dnf install fuse-libs"), ("apk", "apk add fuse"), ("", "libfuse.so.2")]
)
def test_other_distributions_are_told_what_to_install(machine: Machine, manager: str, words: str) -> None:
    """Without apt nothing is installed, and the message names the packages."""
    if manager:
        machine.logged(manager)
    done = machine.run()
    assert done.returncode == 1 and words in done.stderr and machine.asked == []


def test_an_old_python_is_refused(machine: Machine) -> None:
    """Python before 3.11 is told by its version, with the way out."""
    machine.has("old")
    done = machine.run()
    assert done.returncode == 1
    assert "Python 3.9.2 is too old" in done.stderr and "make PYTHON=" in done.stderr


def test_make_help_lists_the_targets() -> None:
    """`make` alone lists what there is."""
    done = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True)
    for target in ("install", "demo", "test", "lint", "format", "bench", "test-conformance", "docs", "clean"):
        assert f"make {target} " in done.stdout


def test_imports_run_one_way() -> None:
    """The import contracts of pyproject.toml hold."""
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
