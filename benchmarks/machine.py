"""What this machine is, and whether anything else is at work on it."""

import os
import platform
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
MOST = 0.10  # of one core: what the rest of the machine may use and still count as idle


@dataclass
class Load:
    """A moment's account of processor time, in seconds since the start: all in all, stolen, and by process."""

    time: float
    busy: float
    stolen: float
    processes: dict[int, tuple[str, float]]

    @classmethod
    def now(cls) -> "Load":
        fields = [int(field) / TICKS for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        user, nice, system, _, _, irq, softirq, steal = fields[:8]
        processes = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    name, figures = (folder / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
                except OSError:  # it has ended meanwhile
                    continue
                processes[int(folder.name)] = name, sum(map(int, figures.split()[11:13])) / TICKS
        return cls(time.monotonic(), user + nice + system + irq + softirq, steal, processes)


@dataclass
class Others:
    """What others than ourselves used of the machine over a while, in cores, and who used most."""

    cores: float
    culprit: str

    @property
    def idle(self) -> bool:
        """Whether they used next to nothing."""
        return self.cores <= MOST

    def __str__(self) -> str:
        return f"others use {self.cores:.2f} of its {os.cpu_count()} cores, most of it {self.culprit}"


def others_between(before: Load, after: Load, own: Collection[int] = ()) -> Others:
    """Return what others used between two moments; `own` are our own processes besides this one."""
    seconds = after.time - before.time
    used = {"the hypervisor, for other machines": after.stolen - before.stolen}
    ours = 0.0
    for pid, (name, total) in after.processes.items():
        spent = total - before.processes.get(pid, ("", 0.0))[1]
        if pid in own or pid == os.getpid():
            ours += spent
        else:
            used[f"{name} (process {pid})"] = spent
    cores = (after.busy + after.stolen - before.busy - before.stolen - ours) / seconds
    return Others(max(cores, 0.0), max(used, key=lambda name: used[name]))


def others(seconds: float = 1.0) -> Others:
    """Watch the machine for a while, doing nothing."""
    before = Load.now()
    time.sleep(seconds)
    return others_between(before, Load.now())


def description() -> dict[str, str | int]:
    """Return what to know of the machine where its figures are quoted."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return {"processor": model, "cores": cores, "memory_gib": round(memory / 2**30), "system": platform.platform()}
