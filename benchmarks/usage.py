"""What the processes of an installed resultsfs take of the node while it works."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import processes
from tests.cluster import programs
from tests.cluster.machine.places import Places

RESIDENT, PEAK = "resident", "peak"


class Usage:
    """The processes as they run now, replicas together; none may be started anew before the last figure is taken."""

    def __init__(self, places: Places) -> None:
        self._pids = {name: programs.pids(places, name) for name in programs.PROGRAMS}
        missing = [name for name, found in self._pids.items() if not found]
        if missing:
            raise RuntimeError(f"no process runs of {', '.join(missing)}: is resultsfs installed?")
        self.burnt: dict[str, dict[str, list[float]]] = {}
        """Seconds of CPU, by work and program, a sample for each time."""

    @contextmanager
    def of(self, work: str, times: int = 1) -> Iterator[None]:
        """Count the CPU that is taken meanwhile as that of some work, done so many times; without a name, not."""
        before = self._cpu()
        yield
        if work:
            samples = self.burnt.setdefault(work, defaultdict(list))
            for name, seconds in self._cpu().items():
                samples[name].append((seconds - before[name]) / times)

    def memory(self) -> dict[str, dict[str, int]]:
        """Bytes by program: resident now, and the most that it ever had."""
        return {
            name: {RESIDENT: processes.resident(found), PEAK: processes.peak(found)}
            for name, found in self._pids.items()
        }

    def _cpu(self) -> dict[str, float]:
        return {name: processes.cpu_seconds(found) for name, found in self._pids.items()}
