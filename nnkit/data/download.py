"""Fetching the files of public data sets: pinned hashes, several mirrors, nothing half-written left behind."""

from dataclasses import dataclass
from pathlib import Path

from nnkit.errors import DataError

_CHUNK = 1 << 16  # bytes
_TIMEOUT = (10, 30)  # seconds to connect, and between two pieces


@dataclass(frozen=True)
class Remote:
    """A file on the network.

    Parameters
    ----------
    name : str
        What it is called on disk.
    sha256 : str
        Hash of its content, 64 hexadecimal digits.
    size : int
        Number of bytes.
    urls : tuple of str
        Where it can be had, tried in this order.
    """

    name: str
    sha256: str
    size: int
    urls: tuple[str, ...]


def fetch(remote: Remote, folder: Path, progress: bool | None = None) -> Path:
    """Download a file unless it is there already, trying one mirror after the other.

    The file appears under its name only once it is complete and its SHA-256 is right.

    Parameters
    ----------
    remote : Remote
    folder : Path
        Created if missing.
    progress : bool, optional
        Show a progress bar; by default only where standard error is a terminal.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        If no mirror gave the right file, or the folder cannot be written to.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    failures = []
    for url in remote.urls:
        bar = _Progress(remote, progress)
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = pooch.retrieve(url, f"sha256:{remote.sha256}", fname=remote.name, path=folder, downloader=downloader)
        except Exception as error:  # of the network, of the disk, or a wrong hash: the next mirror may do better
            if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                raise DataError(f"cannot save {remote.name} in '{folder}': {error.strerror}") from None
            failures.append(f"{url} ({_reason(error)})")
        else:
            Path(path).chmod(0o644)  # the temporary file that it was is for its owner only
            return Path(path)
        finally:
            bar.close()
    raise DataError(f"could not download {remote.name}: {'; '.join(failures)}")


def _reason(error: Exception) -> str:
    """Say in a few words why a mirror failed."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "wrong SHA-256"
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Progress:
    """What pooch reports to: draws a tqdm bar, and stops a server that sends more than the file should have."""

    def __init__(self, remote: Remote, show: bool | None) -> None:
        from tqdm import tqdm

        disable = None if show is None else not show  # None: tqdm asks whether it is a terminal
        self.bar = tqdm(total=remote.size, desc=remote.name, unit="B", unit_scale=True, disable=disable, leave=False)
        self.limit = 2 * remote.size + 16 * _CHUNK  # pooch counts every piece as a whole chunk
        self.received = 0
        self.total = remote.size

    def __bool__(self) -> bool:
        return True

    def update(self, count: int) -> None:
        self.received += count
        if self.received > self.limit:
            raise ValueError(f"more than the expected {self.bar.total:,} bytes")
        self.bar.update(count)

    def reset(self) -> None:
        self.received = 0
        self.bar.leave = True  # pooch does this once all has arrived: a full bar may stay
        self.bar.reset()

    def close(self) -> None:
        self.bar.close()
