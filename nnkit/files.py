"""Writing files so that nobody ever meets half of one."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, what was written replaces `path` in one move.

    The temporary file lies in the same folder (made if it is missing) and keeps the suffix, by which many writers
    choose their format. It is flushed to the disk before the move, so that even after a power cut `path` holds the
    old file or the new one. When the block raises, the temporary file is removed and `path` stays as it was.

    Parameters
    ----------
    path : path-like
        Where the file shall be in the end.

    Yields
    ------
    pathlib.Path
        Where to write it.

    Raises
    ------
    OSError
        The folder cannot be written to, the disk is full, ...; the message names `path`.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes" / "today.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> target.read_text()
    'all of it'
    >>> [file.name for file in target.parent.iterdir()]
    ['today.txt']
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        if os.name == "posix":
            _flush(target.parent)
    except OSError as error:
        kept = "; the file that was there is unharmed" if target.is_file() else ""
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write the file ({reason}{kept})", str(target)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_partial_files(folder: str | os.PathLike[str]) -> None:
    """Remove what `atomic_path` left in a folder, and in those below it, in a process that was killed.

    Parameters
    ----------
    folder : path-like
        One that no other process is writing to.
    """
    for path in Path(folder).rglob(".*.????????.partial*"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until the disk holds the file; of a folder: its list of names."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
