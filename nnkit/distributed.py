"""Data parallel training: processes, on one machine or many, that share every batch and add up their gradients by MPI.

Each process, a rank, has the whole model and the whole data set. Of each batch it takes its own slice; the gradients
of all slices are added up, and every rank takes the same step with the sum. So nothing but the batch is divided, and
what comes out is what one process would have got, but for the order of the sums.

`connect` finds out whether mpiexec (or srun) started this process as one of several. If not, it returns a
`Communicator` of one, whose sums cost nothing, and mpi4py is not even imported.
"""

import contextlib
import os
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from nnkit.errors import DivergenceError, UsageError

Made = TypeVar("Made")

# Where launchers tell a process how many there are, and which of them it is.
_LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),  # MPICH and its kin (Intel MPI, MVAPICH), and srun --mpi=pmi2
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # Open MPI
    ("SLURM_STEP_NUM_TASKS", "PMIX_RANK"),  # srun --mpi=pmix
)
_PATIENCE = 1.0  # seconds that a rank waits for the others to fail, too, before it ends them


class Launch(NamedTuple):
    """What the launcher said: which process this is, of how many."""

    rank: int = 0
    size: int = 1


class Communicator:
    """What the Solver asks of the other ranks; this one stands for a process that is alone.

    In a script of your own, put everything inside `with distributed.connect() as communicator:`. An error on one rank
    then ends all of them, where the others would wait for it for ever.

    Attributes
    ----------
    rank, size : int
        The process's own number, from 0, and how many there are.
    told : bool
        Whether all ranks are ending because of one that has said why.

    Examples
    --------
    >>> from nnkit import distributed
    >>> with distributed.connect() as communicator:
    ...     communicator.rank, communicator.size, communicator.sum_numbers([2.5])
    (0, 1, [2.5])
    """

    rank = 0
    size = 1
    told = False

    def sum_array(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks: the same bits on each of them.

        Parameters
        ----------
        array : ndarray, contiguous, of the same shape and type on all ranks
        """

    def sum_numbers(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the sums of some numbers over all ranks.

        Parameters
        ----------
        numbers : sequence of float

        Returns
        -------
        sequence of float
        """
        return numbers

    def broadcast_array(self, array: np.ndarray) -> None:
        """Replace an array by rank 0's.

        Parameters
        ----------
        array : ndarray, contiguous, of the same shape and type on all ranks
        """

    def from_first(self, make: Callable[[], Made]) -> Made:
        """Call a function on rank 0 alone, when all ranks have come here; return or raise on all what it did there.

        Parameters
        ----------
        make : callable
            What it returns must be fit for pickle.

        Returns
        -------
        whatever `make` returned
        """
        return make()

    @contextlib.contextmanager
    def first_of_node_first(self) -> Iterator[None]:
        """Let each machine's first rank go through the block before the machine's other ranks do."""
        yield

    def fair_threads(self) -> int | None:
        """Return a rank's share of its machine's cores; None if it has no neighbours.

        Returns
        -------
        int or None
        """
        return None

    def require_same(self, array: np.ndarray, what: str) -> None:
        """Make sure that all ranks have the same bits.

        Parameters
        ----------
        array : ndarray, contiguous
        what : str
            How the message calls its numbers.

        Raises
        ------
        DivergenceError
            On each rank that has others than rank 0.
        """

    def all_failed(self) -> bool:
        """Tell others that this rank gave up, and wait a moment; return whether every one of them did.

        Returns
        -------
        bool
        """
        return True

    def abort(self, status: int) -> NoReturn:
        """End all ranks at once.

        Parameters
        ----------
        status : int
            The exit status.
        """
        sys.exit(status)

    def __enter__(self) -> "Communicator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.size > 1 and not self.all_failed():
            traceback.print_exception(error)
            self.abort(1)


class MPICommunicator(Communicator):
    """Several ranks, joined by MPI.

    Parameters
    ----------
    world : mpi4py.MPI.Intracomm
        Such as `mpi4py.MPI.COMM_WORLD`.
    """

    def __init__(self, world: Any) -> None:
        from mpi4py import MPI

        # Copies of its own: a message of the user's, or a rank that fails in the middle, shall not mix with ours.
        self._world, self._failures = world.Dup(), world.Dup()
        self._node = world.Split_type(MPI.COMM_TYPE_SHARED)
        self._in_place = MPI.IN_PLACE
        self.rank, self.size = world.rank, world.size

    def sum_array(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks."""
        self._world.Allreduce(self._in_place, array)

    def sum_numbers(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the sums of some numbers over all ranks."""
        totals = np.array(numbers, np.float64)
        self.sum_array(totals)
        return totals.tolist()

    def broadcast_array(self, array: np.ndarray) -> None:
        """Replace an array by rank 0's."""
        self._world.Bcast(array)

    def from_first(self, make: Callable[[], Made]) -> Made:
        """Call a function on rank 0 alone; return or raise on all what it did there."""
        _meet(self._world)
        made: Any = None
        error = None
        if self.rank == 0:
            try:
                made = make()
            except Exception as raised:
                error = raised
        _meet(self._world)
        made, error = self._world.bcast((made, error))
        if error is not None:
            raise error
        return made

    @contextlib.contextmanager
    def first_of_node_first(self) -> Iterator[None]:
        """Let each machine's first rank go through the block before the machine's other ranks do."""
        if self._node.rank > 0:
            _meet(self._node)
        yield
        if self._node.rank == 0:
            _meet(self._node)

    def fair_threads(self) -> int | None:
        """Return a rank's share of its machine's cores."""
        own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        # Some launchers bind each rank to cores of its own: then the share is what it has already.
        cores = set().union(*self._node.allgather(own))
        return max(1, min(len(own), len(cores) // self._node.size))

    def require_same(self, array: np.ndarray, what: str) -> None:
        """Make sure that all ranks have the same bits."""
        own = zlib.crc32(array.data)
        if self.from_first(lambda: own) != own:
            hint = "do all machines have the same versions of nnkit and NumPy, and the same kind of processor?"
            raise DivergenceError(f"the {what} of rank {self.rank} are not those of rank 0: {hint}")

    def all_failed(self) -> bool:
        """Tell others that this rank gave up, and wait a moment; return whether every one of them did."""
        # Not all at the same moment, so that of several failed ranks one speaks and ends the others.
        if _meet(self._failures, _PATIENCE + 0.2 * min(self.rank, 20)):
            self.told = self._failures.Iprobe()
            return True
        # Who is ended by this rank's `abort` may have the time to notice, and shall not speak as well.
        self._last_words = [self._failures.isend(None, rank) for rank in range(self.size) if rank != self.rank]
        return False

    def abort(self, status: int) -> NoReturn:
        """End all ranks at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what went wrong has been said; MPI would say that it aborts
        self._world.Abort(status)
        os._exit(status)  # never reached: Abort does not return


def _meet(group: Any, seconds: float = float("inf")) -> bool:
    """Wait until all ranks of a group are here, or for some seconds; return whether they are.

    MPI itself waits in a loop that takes a whole core, of which the rank that is waited for may be in need.
    """
    end, pause = time.monotonic() + seconds, 1e-4
    everybody = group.Ibarrier()
    while not everybody.Test():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(1.5 * pause, 0.02)
    return True


@contextlib.contextmanager
def synced(norms: Iterable[Any], communicator: Communicator) -> Iterator[None]:
    """Have batch norm take its statistics from all ranks' parts of the batch for a while.

    Parameters
    ----------
    norms : iterable of BatchNorm
    communicator : Communicator
    """
    norms = list(norms) if communicator.size > 1 else []
    for norm in norms:
        norm.sum_over_ranks = communicator.sum_array
    try:
        yield
    finally:
        for norm in norms:
            norm.sum_over_ranks = None


def average(arrays: Iterable[np.ndarray], communicator: Communicator) -> None:
    """Replace arrays by their means over all ranks.

    Parameters
    ----------
    arrays : iterable of ndarray
    communicator : Communicator
    """
    for array in arrays if communicator.size > 1 else ():
        communicator.sum_array(array)
        array /= communicator.size


def launched() -> Launch:
    """Return which process this is, of how many that a launcher started together, as the environment tells.

    Returns
    -------
    Launch
        With `rank` and `size`.

    Examples
    --------
    >>> from nnkit import distributed
    >>> distributed.launched()
    Launch(rank=0, size=1)
    """
    for names in _LAUNCHERS:
        size, rank = (os.environ.get(name, "") for name in names)
        if size.isdecimal() and rank.isdecimal() and int(rank) < int(size):
            return Launch(int(rank), int(size))
    return Launch()


def connect() -> Communicator:
    """Join the other processes that mpiexec started together with this one.

    Returns
    -------
    Communicator
        Of one, if there are no others; mpi4py is not imported then.

    Raises
    ------
    ImportError
        There are others, but mpi4py or its MPI library is missing.
    UsageError
        mpi4py uses another MPI than the one that mpiexec belongs to, so that it sees no others.
    """
    size = launched().size
    if size == 1:
        return Communicator()
    started = f"started as one of {size} processes that shall train together"
    try:
        with warnings.catch_warnings():  # of another MPI's mpiexec, in three lines: see below
            warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
            from mpi4py import MPI
    except ModuleNotFoundError:
        raise ImportError(f"{started}, but mpi4py is not installed: pip install 'nnkit[mpi]'") from None
    except (ImportError, RuntimeError) as error:
        raise ImportError(f"{started}, but mpi4py finds no MPI library: {error}") from None
    if MPI.COMM_WORLD.size != size:
        library = " ".join(MPI.Get_library_version().replace("\0", "").split())[:40]
        seen = f"{MPI.COMM_WORLD.size} by the MPI library of mpi4py ({library})"
        raise UsageError(f"{started}, but that is {seen}: start it with the mpiexec of that library")
    return MPICommunicator(MPI.COMM_WORLD)
