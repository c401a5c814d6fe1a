"""Downloads, from a server on loopback that can be made to fail in every way."""

import dataclasses
import gzip
import hashlib
import os
import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nnkit import data
from nnkit.data import cifar, mnist
from nnkit.data.download import Remote, fetch
from nnkit.errors import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes]

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(self.path)
        if name not in self.server.files or self.path.startswith("/down/"):
            return self.send_error(503 if self.path.startswith("/down/") else 404)
        content = self.server.files[name]
        if self.path.startswith("/wrong/"):
            content = content[:-1] + b"!"
        if self.path.startswith("/endless/"):
            content = content * 20
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path.startswith("/cut/") else content)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked, server.daemon_threads = {"file.bin": CONTENT}, [], True
        server.handle_error = lambda *args: None  # a client that hangs up is what some tests are about
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def remote(*urls, content=CONTENT, name="file.bin"):
    return Remote(name, hashlib.sha256(content).hexdigest(), len(content), urls)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_good_mirror(server, tmp_path, capfd):
    path = fetch(remote(f"{server.url}/good/file.bin"), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert capfd.readouterr() == ("", "")  # silent, as nobody watches


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    wanted = remote(f"{server.url}/good/file.bin")
    fetch(wanted, tmp_path)
    fetch(wanted, tmp_path)
    assert server.asked == ["/good/file.bin"]
    (tmp_path / "file.bin").write_bytes(b"damaged since")
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["absent", "down", "wrong", "cut", "endless", "port"])
def test_the_next_mirror_is_tried_after_any_fault(server, tmp_path, fault):
    bad = {"absent": f"{server.url}/good/other.bin", "port": f"http://127.0.0.1:{closed_port()}/file.bin"}
    path = fetch(remote(bad.get(fault, f"{server.url}/{fault}/file.bin"), f"{server.url}/good/file.bin"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("absent", "HTTP status 404"),
        ("down", "HTTP status 503"),
        ("wrong", "wrong SHA-256"),
        ("cut", "no connection|Connection broken"),
        ("endless", "more than the expected 300,000 bytes"),
    ],
)
def test_nothing_is_left_behind_when_all_mirrors_fail(server, tmp_path, fault, reason):
    url = f"{server.url}/good/other.bin" if fault == "absent" else f"{server.url}/{fault}/file.bin"
    with pytest.raises(DataError, match=rf"^could not download file.bin: {url} \(.*({reason})[^\n]*$"):
        fetch(remote(url), tmp_path)
    assert os.listdir(tmp_path) == []


def test_every_failure_is_named(server, tmp_path):
    urls = f"{server.url}/down/file.bin", f"http://127.0.0.1:{closed_port()}/file.bin"
    with pytest.raises(DataError) as caught:
        fetch(remote(*urls), tmp_path)
    assert f"{urls[0]} (HTTP status 503); {urls[1]} (no connection)" in str(caught.value)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot save file\.bin in"):
        fetch(remote(f"{server.url}/good/file.bin"), tmp_path / "file" / "sub")
    assert server.asked == []


def test_progress_bar(server, tmp_path, capfd):
    fetch(remote(f"{server.url}/good/file.bin"), tmp_path, progress=True)
    shown = capfd.readouterr().err
    assert "file.bin" in shown
    assert "100%" in shown
    assert "300k/300k" in shown


def test_load_downloads_mnist_when_asked(server, tmp_path, monkeypatch):
    part = {}
    for kind, shape in (("images-idx3", (3, 28, 28)), ("labels-idx1", (3,))):
        header = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
        part[f"t10k-{kind}-ubyte.gz"] = gzip.compress(header + bytes(int(np.prod(shape))))
    server.files = part
    remotes = [remote(f"{server.url}/good/{name}", content=content, name=name) for name, content in part.items()]
    local = dataclasses.replace(mnist.MNIST, files=(*mnist.MNIST.files[:2], *remotes))
    monkeypatch.setattr(mnist, "MNIST", local)
    with pytest.raises(DataError, match="no MNIST in"):
        data.load("mnist", tmp_path, train=False)
    assert len(data.load("mnist", tmp_path, train=False, download=True)) == 3
    assert sorted(os.listdir(tmp_path / "mnist")) == sorted(part)
    assert len(data.load("mnist", tmp_path, train=False)) == 3  # now without the network
    assert len(server.asked) == 2


def test_load_does_not_download_what_is_wrong(server, tmp_path, monkeypatch):
    archive = dataclasses.replace(cifar.CIFAR10.archive, urls=(f"{server.url}/good/cifar-10-python.tar.gz",))
    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, archive=archive))
    server.files = {"cifar-10-python.tar.gz": CONTENT}
    with pytest.raises(DataError, match="wrong SHA-256"):
        data.load("cifar10", tmp_path, download=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "files", [[cifar.CIFAR10.archive], [cifar.CIFAR100.archive], mnist.MNIST.files, mnist.FASHION_MNIST.files]
)
def test_pinned_files_have_hashes_and_more_than_one_mirror(files):
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        hosts = {url.split("/")[2] for url in file.urls}
        assert len(hosts) >= 2
        assert all(url.endswith("/" + file.name) for url in file.urls)
