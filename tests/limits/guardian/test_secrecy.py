"""What a call can see and change of our other processes: nothing, as far as a user's rights go."""

import os
import shutil
import subprocess
import sys
import textwrap

from required import need

PROGRAM = textwrap.dedent(
    """
    import ctypes, mmap, os, re, subprocess, sys, time
    from pathlib import Path
    from dask_limits import exceptions, limit

    PTRACE_SEIZE = 0x4206

    def ours_above():
        found, pid = [], os.getppid()
        while (name := Path(f"/proc/{pid}/comm").read_text()).startswith("limits-"):
            if name.strip() != "limits-task":  # the parent of a fresh process
                found.append(pid)
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return found, pid

    def trace(pid):
        if ctypes.CDLL(None).ptrace(PTRACE_SEIZE, pid, None, None) != 0:
            raise PermissionError

    WAYS = {
        "memory": lambda pid: Path(f"/proc/{pid}/mem").open("r+b"),
        "open files": lambda pid: os.readlink(f"/proc/{pid}/fd/0"),
        "maps": lambda pid: Path(f"/proc/{pid}/maps").read_text(),
        "environment": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
        "trace": trace,
    }

    def reach():
        above, owner = ours_above()
        reached = []
        for pid in above:
            for name, way in WAYS.items():
                try:
                    way(pid)
                except OSError:
                    continue
                reached.append((pid, name))
        return len(above), reached

    def reach_itself():
        own = os.getpid()
        for name, way in WAYS.items():
            if name != "trace":
                way(own)
        return Path("/proc/self/mem").stat().st_uid == os.getuid()

    def write_to_the_table():
        _, owner = ours_above()
        for link in Path(f"/proc/{owner}/fd").iterdir():
            if "dask-limits-owner-cells" in os.readlink(link):
                with open(link, "r+b", buffering=0) as file:
                    for write in (
                        lambda: file.write(bytes(64)),
                        lambda: file.truncate(0),
                        lambda: mmap.mmap(file.fileno(), 4096),
                    ):
                        try:
                            write()
                        except OSError:
                            continue
                        return "written"
                return "refused"

    def shared_with_us():
        maps = Path("/proc/self/maps").read_text()
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                 if os.path.exists(f"/proc/self/fd/{fd}")]
        return sorted(set(re.findall("dask-limits-[a-z]*-cells", maps + " ".join(links))))

    def grow_in_children():
        for _ in range(3):
            if os.fork() == 0:
                block = os.urandom(2**26)
                time.sleep(60)
        time.sleep(60)

    def fork():
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(60)
        time.sleep(60)

    if __name__ == "__main__":
        for isolation in ("warm", "fresh"):
            def limited(fn, wall_time=60, **limits):
                return limit(fn, wall_time=wall_time, isolation=isolation, **limits)
            processes, reached = limited(reach)()
            assert processes >= 2, processes
            assert not reached, reached
            assert limited(reach_itself)()
            assert limited(write_to_the_table)() == "refused"
            assert limited(shared_with_us)() == ["dask-limits-task-cells"]
            for call, breach in (
                (limited(grow_in_children, memory="150 MiB"), exceptions.MemoryBreach),
                (limited(fork, num_processes=2), exceptions.ProcessBreach),
                (limited(fork, wall_time=0.3), exceptions.WallTimeBreach),
            ):
                error = call.run().exception
                assert isinstance(error, breach), error
    """
)


def test_a_call_reaches_no_memory_and_no_file_of_ours(tmp_path):
    """As any user but root, who may do all."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    without = []
    if os.geteuid() == 0:
        need(shutil.which("setpriv"), "setpriv, for root to do without its rights")
        without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    subprocess.run([*without, sys.executable, script], check=True, timeout=100)
