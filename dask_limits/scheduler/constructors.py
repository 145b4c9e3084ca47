from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Never, Self

from dask_limits.executors import factories
from dask_limits.executors.where import factory_for
from dask_limits.instead import refuse
from dask_limits.limits import Limits, LimitsArguments
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.scheduler.submitter import Submitter

if TYPE_CHECKING:
    from distributed import Security

    from dask_limits.batch_systems.walltimes import Walltime
    from dask_limits.units import Amount, Duration


_OF_TASKS: Final = dict.fromkeys(
    LimitsArguments.__annotations__,
    "limits are those of a task, scheduler.task(function, memory=..., wall_time=...), or of a"
    " function, limit(function, memory=..., wall_time=...)",
)
_OF_POOLS: Final = {
    **_OF_TASKS,
    "mp_context": "processes are forked from one that has imported what calls need",
    "max_tasks_per_child": "Scheduler.with_processes(max_calls_per_process={value!r}) is the same",
    "maxtasksperchild": "Scheduler.with_processes(max_calls_per_process={value!r}) is the same",
    "thread_name_prefix": "threads of dask_limits have names of their own",
}
_PROCESSES: Final = (
    "max_workers",
    "max_calls_per_process",
    "preload",
    "initializer",
    "initargs",
    "reserve",
)
_OF_SCHEDULER: Final = {
    **_OF_POOLS,
    **dict.fromkeys(
        ("max_workers", "n_workers", "n_jobs", "processes"),
        "Scheduler({value!r}) has so many processes",
    ),
    **dict.fromkeys(
        (*_PROCESSES[1:], "security", "batch", "cores", "walltime", "queue", "adaptive"),
        "use Scheduler.with_processes(), with_dask(), with_slurm() or the like, which has it",
    ),
}


class Constructors(Submitter):
    """What makes a `Scheduler`, and what is known of its executor beforehand."""

    def __init__(self, executor: object = None, **_unknown: Never) -> None:
        refuse("Scheduler", _unknown, ["executor"], _OF_SCHEDULER)
        super().__init__()
        self._factory = factory_for(executor, NOTHING, {})
        self.executor: Any = self._factory.given

    @classmethod
    def with_processes(
        cls,
        max_workers: int | None = None,
        *,
        max_calls_per_process: int | None = None,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        reserve: bool = True,
        **_unknown: Never,
    ) -> Self:
        """A scheduler whose calls run in task processes on this machine.

        If a call crashes, no other call is lost. A cancelled call ends at once. Limits take no
        extra time.

        Args:
            max_workers: How many calls can run at one time. By default, one for each CPU that
                this process may use.
            max_calls_per_process: How many calls a task process runs before it is replaced. By
                default, there is no limit.
            preload: Names of modules to import before the first call, such as
                `["sklearn.ensemble"]`. Neither the time nor the memory of an import counts for a
                call. Without this, installed packages that calls have imported are imported
                ahead for later ones.
            initializer: A function that each task process calls once, before its first call, and
                whose time and memory count for no call either. What it sets in globals of the
                script, in modules, in the environment and the like is there for each call.
            initargs: Its arguments. They are pickled with it when this is called.
            reserve: Whether calls with a limit on memory, or with `cores`, wait until that much of
                this machine is free, so that limits never sum up to more than there is.

        If an import or the initializer fails, ends its process or takes more than ten minutes, the
        calls that need it end with a [PreloadError][dask_limits.exceptions.PreloadError] that says
        why. It is tried again for later calls. Calls with `isolation="thread"`, and with
        `context="spawn"` or `"forkserver"`, have nothing of all this.

        Raises:
            ModuleNotFoundError: if there is no such module.
            ValueError: for a number below 1, or a name that no module can have.
            TypeError: if an argument has the wrong type or another name, or cannot be pickled.

        Example:
            >>> from dask_limits import Scheduler
            >>> scheduler = Scheduler.with_processes(2, preload=["json", "email.message"])
        """
        refuse("Scheduler.with_processes()", _unknown, _PROCESSES, _OF_POOLS)
        wanted = Preload.of(preload, initializer, initargs)
        return cls(factories.processes(max_workers, max_calls_per_process, wanted, reserve=reserve))

    @classmethod
    def with_threads(cls, max_workers: int | None = None, **_unknown: Never) -> Self:
        """A scheduler whose calls run in threads of this process, if they have no limits.

        A call with limits runs in a task process, and ends when it is cancelled. A call without
        limits goes on in its thread when it is cancelled, because nothing can end a thread.

        Args:
            max_workers: See `with_processes`.

        Raises:
            ValueError: for a number below 1.
        """
        refuse("Scheduler.with_threads()", _unknown, ["max_workers"], _OF_POOLS)
        return cls(factories.threads(max_workers))

    @classmethod
    def with_loky(cls, max_workers: int | None = None, **_unknown: Never) -> Self:
        """A scheduler whose calls run in loky's worker processes, as joblib's do.

        Args:
            max_workers: See `with_processes`.

        Raises:
            ValueError: for a number below 1.
            ImportError: if loky is not installed.
        """
        refuse("Scheduler.with_loky()", _unknown, ["max_workers"], _OF_POOLS)
        return cls(factories.loky(max_workers))

    @classmethod
    def with_sequential(cls) -> Self:
        """A scheduler that runs each call when it is submitted. For debugging and for tests."""
        return cls(factories.sequential())

    @classmethod
    def with_dask(
        cls,
        where: object = None,
        *,
        n_workers: int | None = None,
        security: Security | bool | None = None,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        batch: bool = True,
        **options: Any,
    ) -> Self:
        """A scheduler whose calls run on Dask.

        Args:
            where: A Client, a Cluster, or the address of a Dask scheduler, "tcp://...". It stays
                open when a run ends. By default, each run starts a LocalCluster.
            n_workers: How many workers a LocalCluster has. By default, one for each CPU that this
                process may use.
            security: Dask's credentials, for an address or a LocalCluster. By default, a
                LocalCluster gets new ones, so that nobody else can connect to it; False turns
                that off.
            preload: What limited calls on each worker find imported: see `with_processes`. Only the
                workers need to have these modules. A cluster has one `preload` and `initializer`,
                those of the run that began last of those that have any; they stay for later runs.
            initializer: See `with_processes`.
            initargs: See `with_processes`.
            batch: Whether short calls with limits may go to a worker together, which makes many of
                them several times faster. See docs/dask.md.
            options: Other arguments of `distributed.LocalCluster` for a new one:
                `threads_per_worker`, by default 1, `memory_limit`, `dashboard_address`, ...

        Raises:
            TypeError: for a `where`, a `security` or another argument of the wrong type, or one
                that a LocalCluster does not have.
            ValueError: for an `n_workers` below 1, or an argument of a LocalCluster together with a
                `where`, or a `security` where it has no effect.
            ModuleNotFoundError: if there is no module to preload, for a new LocalCluster.
        """
        wanted = Preload.of(preload, initializer, initargs)
        return cls(factories.dask(where, n_workers, security, wanted, batch, **options))

    @classmethod
    def with_jobqueue(
        cls,
        name: str,
        /,
        *,
        n_workers: int | None = None,
        adaptive: bool | int | tuple[int, int] | dict[str, Any] | None = None,
        worker_timeout: Duration | None = None,
        security: Security | bool | None = None,
        submit_command: str | None = None,
        cancel_command: str | None = None,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        batch: bool = True,
        **options: Any,
    ) -> Self:
        """A scheduler whose calls run on Dask workers in the jobs of a batch system.

        Each run submits its own jobs, begins when the first worker is there, and cancels the jobs
        when it ends, however it ends. A job that ends is replaced while there is work for it.

        Args:
            name: "slurm", "pbs", "sge", "lsf", "oar", "moab" or "htcondor".
            n_workers: The number of workers, 1 or more. By default 1.
            adaptive: To let the number of workers follow the work: the maximum, 20; the minimum
                and the maximum, `(2, 20)`; True for a maximum of `n_workers`; or a dict of
                `minimum`, `maximum`, `keep_idle` (how long to keep an idle worker; 2 minutes)
                and `target_duration` (in which all work should be done; 5 s).
            worker_timeout: When to give up if no worker has come: seconds, `(30, "m")`, "2h". By
                default never. But a run also gives up after three jobs in a row that ended without
                a worker, and when SLURM never starts its jobs, such as for a `walltime` above the
                limit of the partition.
            security: Your own credentials, or False for connections that anybody can make and
                read. By default each run makes temporary ones.
            submit_command: The command to use in place of "sbatch", "qsub", ...
            cancel_command: The command to use in place of "scancel", "qdel", ...
            preload: See `with_processes`. Only the nodes need to have these modules.
            initializer: See `with_processes`.
            initargs: See `with_processes`.
            batch: See `with_dask`.
            options: Arguments of the class of `dask_jobqueue`: `cores` and `memory` of each job,
                `walltime`, `queue`, `account`, `interface`, `job_extra_directives`, ... What you
                leave out comes from the configuration files of `dask_jobqueue`. `walltime` may
                also be "1h 30m", `(90, "m")`, seconds or a timedelta, and `memory` takes the forms
                that a limit takes. `shared_temp_directory` is a directory that the nodes see, for
                credentials and logs; by default "~/.dask-limits".

        Raises:
            ValueError: if an argument is missing, unknown or invalid.
            TypeError: if an argument has the wrong type.

        Example:
            >>> from dask_limits import Scheduler
            >>> scheduler = Scheduler.with_jobqueue("pbs", cores=4, memory="16 GiB", n_workers=10)
        """
        options |= {"n_workers": n_workers, "adaptive": adaptive, "worker_timeout": worker_timeout}
        options |= {"submit_command": submit_command, "cancel_command": cancel_command}
        options["security"], wanted = security, Preload.of(preload, initializer, initargs)
        return cls(factories.jobqueue(name, options, wanted, batch))

    @classmethod
    def with_slurm(
        cls,
        *,
        n_workers: int | None = None,
        cores: int | None = None,
        memory: Amount | None = None,
        walltime: Walltime | None = None,
        adaptive: bool | int | tuple[int, int] | dict[str, Any] | None = None,
        worker_timeout: Duration | None = None,
        security: Security | bool | None = None,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        batch: bool = True,
        **options: Any,
    ) -> Self:
        """A scheduler whose calls run on Dask workers in SLURM jobs. See `with_jobqueue`.

        Args:
            n_workers: The number of workers.
            cores: The number of cores per job.
            memory: The memory per job: bytes, `(16, "GB")`, "16 GiB".
            walltime: How long each job may last: "1h 30m", `(90, "m")`, seconds, or in SLURM's
                forms "01:30:00", "1-12", "90" (minutes).
            adaptive: See `with_jobqueue`.
            worker_timeout: See `with_jobqueue`.
            security: See `with_jobqueue`.
            preload: See `with_jobqueue`.
            initializer: See `with_processes`.
            initargs: See `with_processes`.
            batch: See `with_dask`.
            options: Arguments of `dask_jobqueue.SLURMCluster`. With `nodes_per_job=4`, each job has
                four nodes and a worker on each; `cores` and `memory` are those of a node.

        Example:
            >>> from dask_limits import Scheduler
            >>> scheduler = Scheduler.with_slurm(n_workers=9, cores=4, memory="1 GiB")
        """
        return cls.with_jobqueue(
            "slurm",
            n_workers=n_workers,
            cores=cores,
            memory=memory,
            walltime=walltime,
            adaptive=adaptive,
            worker_timeout=worker_timeout,
            security=security,
            preload=preload,
            initializer=initializer,
            initargs=initargs,
            batch=batch,
            **options,
        )

    @classmethod
    def with_pbs(cls, *, n_workers: int | None = None, **options: Any) -> Self:
        """A scheduler whose calls run on Dask workers in PBS jobs. See `with_jobqueue`."""
        return cls.with_jobqueue("pbs", n_workers=n_workers, **options)

    @classmethod
    def with_sge(cls, *, n_workers: int | None = None, **options: Any) -> Self:
        """A scheduler whose calls run on Dask workers in SGE jobs. See `with_jobqueue`."""
        return cls.with_jobqueue("sge", n_workers=n_workers, **options)

    @classmethod
    def with_lsf(cls, *, n_workers: int | None = None, **options: Any) -> Self:
        """A scheduler whose calls run on Dask workers in LSF jobs. See `with_jobqueue`."""
        return cls.with_jobqueue("lsf", n_workers=n_workers, **options)

    @classmethod
    def with_oar(cls, *, n_workers: int | None = None, **options: Any) -> Self:
        """A scheduler whose calls run on Dask workers in OAR jobs. See `with_jobqueue`."""
        return cls.with_jobqueue("oar", n_workers=n_workers, **options)

    @classmethod
    def with_moab(cls, *, n_workers: int | None = None, **options: Any) -> Self:
        """A scheduler whose calls run on Dask workers in Moab jobs. See `with_jobqueue`."""
        return cls.with_jobqueue("moab", n_workers=n_workers, **options)

    @classmethod
    def with_htcondor(cls, *, n_workers: int | None = None, **options: Any) -> Self:
        """A scheduler whose calls run on Dask workers in HTCondor jobs. See `with_jobqueue`.

        HTCondor also needs `disk`, and its jobs have no wall time.
        """
        return cls.with_jobqueue("htcondor", n_workers=n_workers, **options)

    def check_limits(self, limits: Limits, name: str = "function") -> None:
        """Check that the workers that this scheduler asks for could run a call with these limits.

        Use it before `run()`, so that no job waits in a queue for calls that it is too small for.
        A scheduler on a batch system knows its workers beforehand, and one `with_processes` this
        machine. Any other accepts all limits here, and refuses a call when it is submitted.

        Args:
            limits: The limits of the call, such as `plugin.limits` of a `PynisherPlugin`.
            name: The name of its function, for the error.

        Raises:
            LimitRefusedError: if no worker could ever run such a call.
            TypeError: if `limits` is something else.

        Example:
            >>> from dask_limits import Limits, Scheduler
            >>> scheduler = Scheduler.with_slurm(cores=1, memory="1 GiB")
            >>> scheduler.check_limits(Limits(memory="500 MiB"))
            >>> scheduler.check_limits(Limits(memory="2 GiB"))  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            dask_limits.exceptions.LimitRefusedError: function() reserves 2.0 GiB of memory...
        """
        if not isinstance(limits, Limits):
            raise TypeError(
                f"limits={limits!r} is of type {type(limits).__name__}. Use Limits(...), or the"
                " `limits` of a PynisherPlugin."
            )
        if (error := self._factory.refusal(limits, name)) is not None:
            raise error
