"""A study on a real PostgreSQL server, started on loopback, by processes that know nothing else of each other."""

import contextlib
import csv
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import nnkit
from nnkit.cli import main

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("optuna")
pytest.importorskip("sklearn")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1]), "NNKIT_NUM_THREADS": "1"}
TRIALS = 6
COMMAND = [
    "search", "quickstart", "--trials", str(TRIALS), "--folds", "2", "--epochs", "14", "--sampler", "random",
    "--pruner", "none", "--heartbeat", "2", "--space", "optimizer.lr={low=1e-4, high=1e-1, log=true}",
    "--set", "data.train_count=300", "--set", "model.widths=[8]", "--set", "training.batch_size=20",
]  # fmt: skip


def server_program(name):
    """Where Debian has it, or the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ.get("PATH", "")]))


@pytest.fixture(scope="module")
def url():
    """The address of an empty database."""
    initdb, postgres = server_program("initdb"), server_program("postgres")
    if not initdb or not postgres:
        pytest.skip("no PostgreSQL server is installed")
    root = os.geteuid() == 0  # whom PostgreSQL refuses to serve
    user = next((name for name in ("postgres", "nobody") if _exists(name)), None) if root else None
    who = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    with socket.socket() as free, contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="nnkit-postgresql-")))
        if user:
            shutil.chown(folder, user)
        new = [
            initdb,
            "-D",
            folder / "data",
            "-U",
            "nnkit",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]
        subprocess.run(new, check=True, capture_output=True, cwd=folder, **who)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        serve = [postgres, "-D", folder / "data", *options, "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(serve, cwd=folder, stdout=log, stderr=log, **who)
        cleanup.callback(server.wait, 30)
        cleanup.callback(server.send_signal, signal.SIGINT)  # its fast shutdown
        address = f"postgresql://nnkit@127.0.0.1:{port}/postgres"
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(address).close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield address


def _exists(name):
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def rows(url, query):
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_workers_of_which_one_is_killed(url, tmp_path, capsys):
    def start(name):
        command = [sys.executable, "-m", "nnkit", *COMMAND, "--storage", url, "--out", str(tmp_path / name)]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def both_are_in_the_middle():
        query = "SELECT DISTINCT trial_id FROM trials JOIN trial_intermediate_values USING (trial_id)"
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            return len(rows(url, query + " WHERE state = 'RUNNING'")) == 2
        return False

    first, second = start("first"), start("second")  # at once, on an empty database
    while True:
        wait_for(both_are_in_the_middle, first)
        first.send_signal(signal.SIGSTOP)
        if both_are_in_the_middle():  # still
            break
        first.send_signal(signal.SIGCONT)
    first.kill()
    first.communicate()
    printed, errors = second.communicate(timeout=120)
    assert (second.returncode, errors) == (0, "")

    with (tmp_path / "second" / "trials.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    numbers = [number for (number,) in rows(url, "SELECT number FROM trials ORDER BY number")]
    assert numbers == list(range(len(table))) == [int(row["trial"]) for row in table]  # contiguous
    states = [row["state"] for row in table]
    assert states.count("complete") == TRIALS  # none lost
    assert states.count("failed") == len(table) - TRIALS == 1  # the one that was killed
    killed = next(row for row in table if row["state"] == "failed")
    done = [row["optimizer.lr"] for row in table if row["state"] == "complete"]
    assert len(set(done)) == TRIALS  # none doubled
    assert killed["optimizer.lr"] in done  # and run again
    assert printed.count("killed or interrupted") == 1
    assert (tmp_path / "second" / "best.toml").exists()
    assert not (tmp_path / "first" / "best.toml").exists()

    # Whoever comes later finds all done.
    assert main([*COMMAND, "--storage", url, "--out", str(tmp_path / "third")]) == 0
    assert f"quickstart has {TRIALS + 1} finished trials already" in capsys.readouterr().out
    best = [(tmp_path / name / "best.toml").read_text(encoding="utf-8").splitlines() for name in ("second", "third")]
    assert best[0][3:] == best[1][3:]
