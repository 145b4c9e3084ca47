"""A tree of processes as `/proc` shows it: its members, their usage, and how to end it.

Source: proc(5). One `stat` file a process is read, 10 us or so; psutil's walk of a tree reads
every process of the machine and costs 800 us.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from dask_limits.printable import printable

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SIGCHLD: Final = 1 << signal.SIGCHLD - 1
_COMMAND_LENGTH: Final = 120
_TRACKER: Final = re.compile(rb"\0-c\0from [\w.]+\.resource_tracker import main; ?main\(")
_MAPPING: Final = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+).*\n", re.MULTILINE)
"""The line of a mapping in /proc/PID/smaps: the device of its file, and the inode."""
_KIB: Final = re.compile(
    rb"^(Rss|Pss|Pss_Dirty|Shared_Dirty|Private_Clean|Private_Dirty|Anonymous): +(\d+)",
    re.MULTILINE,
)
_PF_EXITING: Final = 0x4  # of the flags in /proc/PID/stat
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
# Linux has it since 3.5, but a kernel can be built without (CONFIG_PROC_CHILDREN).
_HAS_CHILDREN_FILES: Final = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


class Process(NamedTuple):
    """One reading of `/proc/PID/stat`."""

    pid: int
    parent: int
    session: int
    state: str
    started: float  # seconds since boot, in steps of 10 ms
    cpu_time: float  # seconds, its own
    waited_cpu_time: float  # seconds, of the children that it has waited for, and of theirs
    threads: int
    resident: int  # bytes, shared pages included
    faults: int  # page faults without input or output
    layout: int  # an address that a new program has anew, and a fork of it has too
    ignores_children: bool  # whether it ignores SIGCHLD: then nobody waits for its children

    @property
    def has_ended(self) -> bool:
        """Whether it is a zombie."""
        # A process is shown as one too when its main thread has ended, and others go on.
        return self.state == "Z" and self.threads <= 1


def why_not_readable() -> str:
    """Why /proc does not show the processes that this one starts; empty if it does."""
    try:
        pid = os.readlink("/proc/self")
        own = os.readlink("/proc/self/ns/pid")
        of_children = os.readlink("/proc/self/ns/pid_for_children")
    except OSError as error:
        return f"/proc cannot be read ({error.strerror})"
    if pid == str(os.getpid()) and own == of_children:
        return ""
    return (
        "/proc shows another PID namespace than that of the call;"
        " mount the one that belongs to it, as `unshare --mount-proc` does"
    )


def _read(path: str, enough: int = sys.maxsize) -> bytes:
    """The contents of a file, at least so many bytes; what there is when its process has ended."""
    content = b""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return content
    try:
        while len(content) < enough and (part := os.read(fd, 4096)):
            content += part
    except OSError:  # it went between open and read
        pass
    finally:
        os.close(fd)
    return content


def _field(path: str, name: bytes) -> bytes | None:
    """The first word after this name at the start of a line; None if there is none."""
    words = _read(path).partition(b"\n" + name)[2].split(None, 1)
    return words[0] if words else None


def is_exiting(pid: int) -> bool:
    """Whether a process has come to its end, and may still free its memory."""
    line = _read(f"/proc/{pid}/stat", enough=1)
    return not line or bool(int(line[line.rindex(b")") + 2 :].split()[6]) & _PF_EXITING)


def read_process(pid: int) -> Process | None:
    """A process as it is now; None if it has ended."""
    line = _read(f"/proc/{pid}/stat", enough=1)
    if not line:
        return None
    # The name, in brackets, may hold spaces and brackets itself; state, ppid, ... come after it.
    field = line[line.rindex(b")") + 2 :].split()
    state, threads, pages = field[0].decode(), int(field[17]), int(field[21])
    if state == "Z" and threads > 1:
        pages = _pages_by_thread(pid)
    return Process(
        pid=pid,
        parent=int(field[1]),
        session=int(field[3]),
        state=state,
        started=int(field[19]) * _TICK_S,
        # The file has it in steps of 10 ms, of which each process of many may use less.
        cpu_time=max((int(field[11]) + int(field[12])) * _TICK_S, cpu_seconds(pid)),
        waited_cpu_time=(int(field[13]) + int(field[14])) * _TICK_S,
        threads=threads,
        resident=pages * PAGE,
        faults=int(field[7]),
        layout=int(field[25]),
        ignores_children=bool(int(field[30]) & _SIGCHLD),
    )


def _threads_of(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _pages_by_thread(pid: int) -> int:
    """Resident pages of a process whose main thread has ended; its other threads show them."""
    for tid in _threads_of(pid):
        words = _read(f"/proc/{pid}/task/{tid}/statm").split()
        if words and words[1] != b"0":
            return int(words[1])
    return 0


def command_line(pid: int) -> str | None:
    """The command line of a process, escaped and shortened for messages; None if it has ended."""
    data = _read(f"/proc/{pid}/cmdline", enough=1)[: 4 * _COMMAND_LENGTH]
    if not data:  # gone, or a zombie
        return None
    words = data.rstrip(b"\0").replace(b"\0", b" ").decode(errors="backslashreplace")
    text = printable(words)
    return text if len(text) <= _COMMAND_LENGTH else text[: _COMMAND_LENGTH - 3] + "..."


def children_of(pid: int, threads: int = 0) -> list[int]:
    """The pids of the children of a process, zombies included; empty if it has ended.

    Its number of threads, if known, saves a look: with one thread there is one file to read.
    """
    if not _HAS_CHILDREN_FILES:
        return [p.pid for p in _all_processes() if p.parent == pid]
    # A child is listed in the file of the thread that forked it.
    tids = [str(pid)] if threads == 1 else _threads_of(pid)
    return [int(n) for tid in tids for n in _read(f"/proc/{pid}/task/{tid}/children").split()]


def _all_processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := read_process(int(name))) is not None:
            yield process


def descendants_of(root: Process) -> list[Process]:
    """All processes below a process, zombies included."""
    found: dict[int, Process] = {}
    todo = [root]
    for parent in todo:
        for pid in children_of(parent.pid, parent.threads):
            if pid not in found and (child := read_process(pid)) is not None:
                found[pid] = child
                todo.append(child)
    return list(found.values())


def cpu_time_below(root: Process, below: list[Process]) -> float:
    """CPU seconds of all processes below a process that live or were waited for."""
    return root.waited_cpu_time + sum(p.cpu_time + p.waited_cpu_time for p in below)


def seconds_since_boot() -> float:
    """The time now, on the clock of `Process.started`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, without its children: exact, and 0.3 us; 0 if it has ended.

    Source: clock_getcpuclockid(3); the encoding is the kernel's MAKE_PROCESS_CPUCLOCK with
    CPUCLOCK_SCHED, and part of its ABI.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def queued_seconds() -> float:
    """Seconds that the main thread of this process has waited for a processor; 0 if not known.

    Source: `Documentation/scheduler/sched-stats.rst` of the kernel, /proc/<pid>/schedstat.
    """
    words = _read("/proc/self/schedstat").split()
    return int(words[1]) / 1e9 if words else 0.0


class Pages(NamedTuple):
    """The resident pages of a process by how many processes have them, in bytes."""

    resident: int
    private: int  # those that no other has
    share: int  # the others, each divided by the number of its sharers
    anonymous: int  # those of neither files nor shared memory
    lent: int  # those of shared memory and of files that were written, beyond their share
    shared: int = 0  # those of some files in memory, which are in none of the last four


def pages_of(pid: int, shared: Collection[int] = ()) -> Pages:
    """Count the pages of a process; 0 if it has ended. It takes 0.03 ms, and 5 ms for each GiB.

    Pages of the files in memory with the inodes `shared` are counted apart; that takes some ms.
    """
    if shared and (pages := _pages_by_mapping(pid, shared)) is not None:
        return pages
    text = _read(f"/proc/{pid}/smaps_rollup")
    lines = (line.split() for line in text.splitlines()[1:])
    kib = defaultdict(int, {words[0]: int(words[1]) for words in lines})
    if not kib:
        process = read_process(pid)  # gone, a zombie, or a kernel before 4.14
        resident = 0 if process is None else process.resident
        return Pages(resident, resident, 0, resident, 0)
    private = kib[b"Private_Clean:"] + kib[b"Private_Dirty:"]
    lent = 0
    if b"Pss_Dirty:" in kib:  # since Linux 6.0; anonymous pages are dirty, too
        dirty = kib[b"Shared_Dirty:"] + kib[b"Private_Dirty:"]
        lent = max(dirty - kib[b"Pss_Dirty:"] - (kib[b"Anonymous:"] - kib[b"Pss_Anon:"]), 0)
    share = max(kib[b"Pss:"] - private, 0)
    figures = kib[b"Rss:"], private, share, kib[b"Anonymous:"], lent
    return Pages(*(figure * 1024 for figure in figures))


def _pages_by_mapping(pid: int, shared: Collection[int]) -> Pages | None:
    """The same from each mapping of the process; None if it tells of none.

    From one reading: what is mapped may come and go at any moment. A mapping of a shared file that
    the process has written to counts: its pages are copies, and no file's.
    """
    text = _read(f"/proc/{pid}/smaps")
    headers = list(_MAPPING.finditer(text))
    if not headers:
        return None
    total, apart, lent = defaultdict[bytes, int](int), 0, 0
    ends = (*(header.start() for header in headers[1:]), len(text))
    for header, end in zip(headers, ends, strict=True):
        kib = {name: int(figure) for name, figure in _KIB.findall(text, header.end(), end)}
        is_file = header[1] == _memory_device() and int(header[2]) in shared
        if is_file and not kib[b"Anonymous"]:
            apart += kib[b"Rss"]
            continue
        for name, figure in kib.items():
            total[name] += figure
        if b"Pss_Dirty" in kib and not kib[b"Anonymous"]:
            lent += kib[b"Shared_Dirty"] + kib[b"Private_Dirty"] - kib[b"Pss_Dirty"]
    private = total[b"Private_Clean"] + total[b"Private_Dirty"]
    share = max(total[b"Pss"] - private, 0)
    figures = total[b"Rss"] + apart, private, share, total[b"Anonymous"], lent, apart
    return Pages(*(figure * 1024 for figure in figures))


@functools.cache
def _memory_device() -> bytes:
    """The number of the device that all files in memory are on, as /proc/PID/smaps shows it."""
    fd = os.memfd_create("dask-limits-device", os.MFD_CLOEXEC)
    device = os.fstat(fd).st_dev
    os.close(fd)
    return b"%02x:%02x" % (os.major(device), os.minor(device))


def anonymous_memory(pid: int) -> int:
    """Resident bytes that are of neither files nor shared memory, in 5 us; 0 if it has ended."""
    words = _read(f"/proc/{pid}/statm", enough=1).split()
    return (int(words[1]) - int(words[2])) * PAGE if words else 0


def proportional_memory(pid: int) -> int:
    """Bytes of a process with each shared page divided by the number of its sharers (PSS)."""
    pages = pages_of(pid)
    return pages.private + pages.share


def children_cpu_time() -> float:
    """CPU seconds of all children that this process has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def blocks_signal(pid: int, number: int) -> bool:
    """Whether the main thread of a process blocks a signal; True if it has ended."""
    blocked = _field(f"/proc/{pid}/status", b"SigBlk:")
    return blocked is None or bool(int(blocked, 16) >> (number - 1) & 1)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or by another that traces it."""
    process = read_process(pid)
    return process is not None and process.state in ("T", "t")


def oom_kills() -> int:
    """How many processes the kernel has killed since boot because memory had run out."""
    return int(_field("/proc/vmstat", b"oom_kill ") or 0)


def may_be_resource_tracker(pid: int) -> bool:
    """Whether it looks like a process of multiprocessing or loky that removes what others leave.

    It removes semaphores, shared memory and folders when its pipe ends: when nobody holds it open.
    """
    command = _read(f"/proc/{pid}/cmdline", enough=1)
    if command:
        return _TRACKER.search(command) is not None
    process = read_process(pid)  # it is empty also while execve(2) starts the program
    return process is not None and process.state != "Z"


def has_ended(pid: int) -> bool:
    """Whether a process is a zombie or gone."""
    process = read_process(pid)
    return process is None or process.has_ended


def kill_tree(root: int) -> list[Process]:
    """End a process and everything below it, faster than it can fork.

    A stopped process cannot fork. So stop all processes, and look again until there is no new one;
    then kill them. One that is missed, in a fork under way, loses its parent and becomes a child of
    the nearest subreaper. So does a resource tracker below the root, which ends by itself when the
    others have ended.

    Returns:
        The resource trackers: they were not killed.
    """
    stopped: set[int] = set()
    new = {root}
    while new:
        for pid in new:
            send_signal(pid, signal.SIGSTOP)
        stopped |= new
        process = read_process(root)
        if process is None:
            break
        new = {p.pid for p in descendants_of(process) if not p.has_ended} - stopped
    trackers = {pid for pid in stopped if pid != root and may_be_resource_tracker(pid)}
    for pid in stopped - trackers:
        send_signal(pid, signal.SIGKILL)
    spared = [p for pid in trackers if (p := read_process(pid)) is not None]
    for pid in trackers:
        send_signal(pid, signal.SIGCONT)
    return spared


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or setuid: not ours to end
        pass
