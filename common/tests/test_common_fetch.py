"""Downloads from a local server: complete, resumed, failed; hostile archives."""

import gzip
import hashlib
import io
import os
import signal
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from common import cli
from common import fetch as fetching
from common.campaign.plan import Job, resolve
from common.data import load_dataset
from common.downloads import REMOTE_FILES, RemoteFile, default_root
from common.errors import UserError
from common.fetch import fetch

SHARED = Path(__file__).resolve().parents[3] / "shared"
CONTENT = bytes(range(256)) * 4000  # 1 MB


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@dataclass
class Site:
    """Content and behavior of the server, and the requests that it received."""

    files: dict[str, bytes] = field(default_factory=dict)
    limits: list[int] = field(default_factory=list)  # bytes after which each of the next responses ends
    ranges: bool = True
    length: bool = True
    status: int = 200
    first: list[Callable[[BaseHTTPRequestHandler], object]] = field(
        default_factory=list
    )  # answers to the next requests
    requests: list[str | None] = field(default_factory=list)  # the Range header of each request
    url: str = ""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requested = self.headers.get("Range")
            state.requests.append(requested)
            if state.first:
                state.first.pop(0)(self)
                return
            body = state.files.get(self.path.rsplit("/", 1)[1])
            if body is None or state.status != 200:
                self.send_error(404 if body is None else state.status)
                return
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and state.ranges else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if state.length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : start + state.limits.pop(0) if state.limits else None])

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            """Nothing: a client that gives up is part of these tests, and its error is no line of the command."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/files"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def plain_item(raw: bytes = CONTENT, size: int | None = len(CONTENT)) -> RemoteFile:
    return RemoteFile("http://example.invalid/thing.bin", sha256(raw), size, "thing.bin")


def get(item: RemoteFile, to: Path, **options) -> Path:
    (path,) = fetch("thing", to, files={"thing": (item,)}, pause=0, **options)
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("length", [True, False])
def test_download_is_complete_and_not_repeated(site, tmp_path, size, length):
    site.files["thing.bin"], site.length = CONTENT, length
    path = get(plain_item(size=size), tmp_path / "new" / "folder", base_url=site.url)
    assert path.read_bytes() == CONTENT and files_in(path.parent) == ["thing.bin"] and site.requests == [None]
    assert get(plain_item(size=size), path.parent, base_url=site.url) == path and len(site.requests) == 1


def test_closed_connection_is_resumed_in_same_call(site, tmp_path):
    site.files["thing.bin"] = CONTENT
    site.limits = [300_000, 200_000, 0]
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=300000-", "bytes=500000-", "bytes=500000-"]


def test_stalled_download_raises_and_is_resumed_by_next_call(site, tmp_path):
    site.files["thing.bin"] = CONTENT
    site.limits = [300_000, 0, 0, 0]
    with pytest.raises(UserError, match=r"stopped after 300000 bytes .*repeat the command to resume.*--from FOLDER"):
        get(plain_item(), tmp_path, base_url=site.url)
    assert files_in(tmp_path) == ["thing.bin.part"]
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests[-1] == "bytes=300000-" and files_in(tmp_path) == ["thing.bin"]


def test_server_without_ranges_restarts_download(site, tmp_path):
    site.files["thing.bin"], site.ranges = CONTENT, False
    (tmp_path / "thing.bin.part").write_bytes(CONTENT[:1000])
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == ["bytes=1000-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_complete_part_is_only_verified(site, tmp_path, size):
    site.files["thing.bin"] = CONTENT
    (tmp_path / "thing.bin.part").write_bytes(CONTENT)
    assert get(plain_item(size=size), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert len(site.requests) == (0 if size else 1)


@pytest.mark.parametrize("part", [b"something else", b"x" * (len(CONTENT) + 5), b"x" * len(CONTENT)])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_wrong_part_is_discarded_and_downloaded_again(site, tmp_path, part, size):
    site.files["thing.bin"] = CONTENT
    (tmp_path / "thing.bin.part").write_bytes(part)
    assert get(plain_item(size=size), tmp_path, base_url=site.url).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("sent", [CONTENT[:-1] + b"x", CONTENT + b"more", CONTENT[:-1]])
def test_wrong_file_raises_and_leaves_nothing(site, tmp_path, size, sent):
    site.files["thing.bin"] = sent
    with pytest.raises(UserError) as caught:
        get(plain_item(size=size), tmp_path, base_url=site.url)
    assert "thing.bin: " in str(caught.value)
    assert "thing.bin" not in files_in(tmp_path)
    if not (size and len(sent) < size):  # a short one may be completed by the next call
        assert files_in(tmp_path) == []


def test_too_long_file_is_not_read_to_end(site, tmp_path, monkeypatch):
    site.files["thing.bin"], site.length, sizes = CONTENT + bytes(10**6), False, []
    monkeypatch.setattr(fetching, "BLOCK", 1000)
    monkeypatch.setattr(fetching, "sha256_of", lambda path: str(sizes.append(path.stat().st_size)))
    with pytest.raises(UserError, match="was removed"):
        get(plain_item(), tmp_path, base_url=site.url)
    assert sizes == [pytest.approx(len(CONTENT), abs=1000)] and files_in(tmp_path) == []


def test_server_errors_raise_one_line(site, tmp_path):
    with pytest.raises(UserError, match="HTTP error 404"):
        get(plain_item(), tmp_path, base_url=site.url)
    site.files["thing.bin"], site.status = CONTENT, 503
    with pytest.raises(UserError, match="HTTP error 503"):
        get(plain_item(), tmp_path, base_url=site.url)
    with pytest.raises(UserError, match="Connection refused.*--from FOLDER"):
        get(plain_item(), tmp_path, base_url="http://127.0.0.1:9")
    for url in ("file:///etc", "ftp://example.invalid", "nonsense"):
        with pytest.raises(UserError, match="http://"):
            get(plain_item(), tmp_path, base_url=url)
    assert files_in(tmp_path) == []


def test_existing_file_is_verified_and_not_overwritten(site, tmp_path):
    site.files["thing.bin"] = CONTENT
    (tmp_path / "thing.bin").write_text("mine")
    with pytest.raises(UserError, match="the existing file has another SHA-256"):
        get(plain_item(), tmp_path, base_url=site.url)
    assert (tmp_path / "thing.bin").read_text() == "mine" and site.requests == []


def test_full_disk_raises_without_retry(site, tmp_path, monkeypatch):
    site.files["thing.bin"] = CONTENT

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        get(plain_item(), tmp_path, base_url=site.url)
    assert len(site.requests) == 1


def answer(status: int, body: bytes = b"", reason: str | None = None, **headers: str) -> Callable:
    """A complete answer; headers: names with underscores."""

    def send(handler):
        handler.send_response(status, reason)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def chunked(*chunks: bytes, complete: bool) -> Callable:
    def send(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in (*chunks, b"") if complete else chunks:
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")

    return send


def printed_line(capsys, item: RemoteFile, to: Path, **options) -> str:
    """Fetch as a command does and return its line on standard error."""
    assert cli.run(lambda argv: print(get(item, to, **options))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and error.strip().isprintable()
    return error


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_asked_again(site, tmp_path, status):
    site.files["thing.bin"], site.first = CONTENT, [answer(status)] * 4
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT and len(site.requests) == 5


def test_busy_server_is_asked_again_in_middle_of_file(site, tmp_path):
    site.files["thing.bin"] = CONTENT
    site.limits, site.first = [300_000], [lambda handler: handler.send_error(503) or None]
    (tmp_path / "thing.bin.part").write_bytes(CONTENT[:1000])
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == ["bytes=1000-", "bytes=1000-", "bytes=301000-"]


def test_pauses_double_and_follow_retry_after(site, tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    site.files["thing.bin"] = CONTENT
    site.first = [answer(503), answer(503), answer(429, Retry_After="7"), answer(503, Retry_After="nonsense")]
    fetch("thing", tmp_path, base_url=site.url, files={"thing": (plain_item(),)}, pause=0.5)
    assert pauses == [0.5, 1.0, 7.0, 4.0]
    site.first = [answer(429, Retry_After="3600")]
    with pytest.raises(UserError, match=r"HTTP error 429 .*repeat the command in 3600 s to resume"):
        get(plain_item(), tmp_path / "other", base_url=site.url)
    assert fetching._seconds_to_wait("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert 0 < fetching._seconds_to_wait("Fri, 01 Jan 2100 00:00:00 GMT") < 4e9
    for damaged in ("", "-5", "soon", "Fri, 99 Jan 99999 99:99:99", "1e9", "9" * 50):
        assert fetching._seconds_to_wait(damaged) >= 0


def test_truncated_chunked_body_is_kept_and_resumed(site, tmp_path):
    site.files["thing.bin"] = CONTENT
    site.first = [chunked(CONTENT[:200_000], CONTENT[200_000:300_000], complete=False)]
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=300000-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_chunked_body_is_read_completely(site, tmp_path, size):
    site.first = [chunked(CONTENT[:200_000], CONTENT[200_000:], complete=True)]
    assert get(plain_item(size=size), tmp_path, base_url=site.url).read_bytes() == CONTENT


def test_interruption_on_slow_line_loses_nothing(site, tmp_path):
    """The server sends a part and waits; Ctrl-C keeps what has arrived, and the next call resumes there."""
    site.files["thing.bin"], part, interrupted = CONTENT, tmp_path / "thing.bin.part", threading.Event()

    def slowly(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:50_000])
        interrupted.wait(20)

    def interrupt():
        end = time.monotonic() + 5
        while time.monotonic() < end and not (part.exists() and part.stat().st_size >= 50_000):
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    site.first = [slowly]
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        get(plain_item(), tmp_path, base_url=site.url)
    interrupted.set()
    assert files_in(tmp_path) == ["thing.bin.part"] and part.read_bytes() == CONTENT[:50_000]
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=50000-"]


def test_open_connection_is_not_awaited_after_last_byte(site, tmp_path):
    done = threading.Event()

    def keep_open(handler):
        answer(200, CONTENT)(handler)
        done.wait(20)

    site.first = [keep_open]
    start = time.monotonic()
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    done.set()
    assert time.monotonic() - start < 15


def test_second_fetch_waits_for_first(site, tmp_path, capsys):
    """Both return the file, which is downloaded once."""
    site.files["thing.bin"], waiting, found = CONTENT, threading.Event(), []

    def slowly(handler):
        waiting.wait(10)
        answer(200, CONTENT)(handler)

    site.first = [slowly]
    threads = [
        threading.Thread(target=lambda: found.append(get(plain_item(), tmp_path, base_url=site.url))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    end, printed = time.monotonic() + 5, ""
    while time.monotonic() < end and "waiting" not in printed:
        printed += capsys.readouterr().err
        time.sleep(0.01)
    waiting.set()
    for thread in threads:
        thread.join()
    assert printed == f"{tmp_path / 'thing.bin'}: another process fetches it; waiting\n"
    assert [path.read_bytes() for path in found] == [CONTENT] * 2 and site.requests == [None]
    assert files_in(tmp_path) == ["thing.bin"]


@pytest.mark.parametrize("length", [True, False])
def test_complete_short_answer_is_called_complete(site, tmp_path, capsys, length):
    page = b"<html>Please sign in</html>"
    if length:
        site.first = [answer(200, page, Content_Type="text/html; charset=utf-8")]
        kind = "text/html"
    else:
        site.first, kind = [chunked(page, complete=True)], "text/plain"
    error = printed_line(capsys, plain_item(), tmp_path, base_url=site.url)
    assert (
        f"complete file of {len(page)} bytes ({kind}), expected {len(CONTENT)}" in error and "connection" not in error
    )
    assert files_in(tmp_path) == [] and len(site.requests) == 1


def test_complete_short_answer_does_not_replace_part(site, tmp_path):
    (tmp_path / "thing.bin.part").write_bytes(CONTENT[:1000])
    site.first = [answer(200, b"sign in")]
    with pytest.raises(UserError, match="complete file of 7 bytes"):
        get(plain_item(), tmp_path, base_url=site.url)
    assert (tmp_path / "thing.bin.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_other_range_than_requested_restarts_download(site, tmp_path, size):
    site.files["thing.bin"] = CONTENT
    (tmp_path / "thing.bin.part").write_bytes(CONTENT[:1000])
    site.first = [answer(206, CONTENT[5:], Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")]
    assert get(plain_item(size=size), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == ["bytes=1000-", None]


def test_server_that_restarts_each_time_is_given_up(site, tmp_path):
    """It answers every range with the first bytes; they are not new ones after the first time."""
    site.first = [answer(206, CONTENT[:5000], Content_Range=f"bytes 0-4999/{len(CONTENT)}")] * 20
    with pytest.raises(UserError, match="download stopped after"):
        get(plain_item(), tmp_path, base_url=site.url)
    assert len(site.requests) == 4


def test_shorter_range_than_requested_is_continued(site, tmp_path):
    site.files["thing.bin"] = CONTENT
    (tmp_path / "thing.bin.part").write_bytes(CONTENT[:1000])
    site.first = [answer(206, CONTENT[1000:5000], Content_Range=f"bytes 1000-4999/{len(CONTENT)}")]
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests == ["bytes=1000-", "bytes=5000-"]


def test_endless_file_of_unknown_size_is_not_read_to_end(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "SIZE_LIMIT", 100_000)
    site.files["thing.bin"] = bytes(10**7)
    with pytest.raises(UserError, match="complete file of 10000000 bytes .* expected at most 100000"):
        get(plain_item(size=None), tmp_path, base_url=site.url)
    site.length, sizes = False, []
    monkeypatch.setattr(fetching, "sha256_of", lambda path: str(sizes.append(path.stat().st_size)))
    with pytest.raises(UserError, match="was removed"):
        get(plain_item(size=None), tmp_path, base_url=site.url)
    assert sizes == [pytest.approx(100_000, abs=fetching.BLOCK)] and files_in(tmp_path) == []


@pytest.mark.parametrize(
    "target",
    [
        "http://[::1/x",
        "http://127.0.0.1:port/x",
        "http://127.0.0.1:99999999/x",
        "http://a b/x",
        "http://" + "a" * 300 + ".invalid/x",
        "//[",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "thing.bin",
        "",
    ],
)
def test_bad_redirection_is_one_line(site, tmp_path, capsys, target):
    site.first = [answer(302, Location=target)] * 20
    error = printed_line(capsys, plain_item(), tmp_path, base_url=site.url)
    assert site.url in error or "unsupported URL" in error
    assert files_in(tmp_path) == []


def test_redirection_is_followed_without_reading_its_content(site, tmp_path):
    site.files["other.bin"], sent = CONTENT, []

    def endless(handler):
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere/other.bin")
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(bytes(100_000))
                sent.append(1)
        except OSError:
            pass

    site.first = [endless]
    (tmp_path / "thing.bin.part").write_bytes(CONTENT[:1000])
    assert get(plain_item(), tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert len(sent) < 1000 and site.requests == ["bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("url", ["http://[::1", "http://a b", "http://x:port", "http://\x1b[31m/", "http://é:é"])
def test_invalid_base_url_is_one_line(tmp_path, capsys, url):
    printed_line(capsys, plain_item(), tmp_path, base_url=url)
    assert files_in(tmp_path) == []


def raw(line: bytes) -> Callable:
    return lambda handler: handler.wfile.write(line)


HOSTILE_ANSWERS = {
    "reason": answer(404, reason="\x1b[31mred\x07 \x9b1m"),
    "status line": raw(b"HTTP/1.1 \x1b[2J\x1b]0;title\x07\r\n\r\n"),
    "no status line": raw(b"\x1b[2J" * 100 + b"\r\n"),
    "long reason": raw(b"HTTP/1.1 404 " + b"x" * 60_000 + b"\r\n\r\n"),
    "endless header": raw(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 10**6),
    "many headers": raw(b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 1000 + b"\r\n"),
    "type": answer(200, b"short", Content_Type="text/\x1b[31mred"),
    "length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc"),
    "chunk length": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n"),
    "chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31m\r\nabc\r\n"),
    "nothing": raw(b""),
}


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("kind", HOSTILE_ANSWERS)
def test_hostile_answer_is_one_printable_line(site, tmp_path, capsys, kind, size):
    site.first = [HOSTILE_ANSWERS[kind]] * 10
    assert len(printed_line(capsys, plain_item(size=size), tmp_path, base_url=site.url)) < 800


FULL_DISK = "No space left on device; free some space, then run the same command again\n"


def test_full_disk_names_file_and_keeps_part(site, tmp_path, capsys, monkeypatch):
    site.files["thing.bin"] = CONTENT
    (tmp_path / "thing.bin.part").symlink_to("/dev/full")
    error = printed_line(capsys, plain_item(), tmp_path, base_url=site.url)
    assert error == f"error: {tmp_path / 'thing.bin.part'}: {FULL_DISK}" and len(site.requests) == 1
    raw = packed({"batches/one": b"1" * 100})
    site.files["a.tar.gz"] = raw
    monkeypatch.setattr(tarfile, "copyfileobj", lambda *args, **more: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    error = printed_line(capsys, tar_item(raw), tmp_path, base_url=site.url)
    assert error == f"error: {tmp_path / '.batches.unpacking'}: {FULL_DISK}"
    assert files_in(tmp_path) == ["a.tar.gz.part", "thing.bin.part"]
    monkeypatch.undo()
    assert get(tar_item(raw), tmp_path).is_dir()  # without a request


EXISTING: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "folder for file": ("thing.bin", Path.mkdir, "not a file"),
    "broken link for file": ("thing.bin", lambda path: path.symlink_to("nowhere"), "not a file"),
    "empty folder": ("batches", Path.mkdir, "the existing folder is empty"),
    "file for folder": ("batches", lambda path: path.write_text("x"), "not a folder"),
    "broken link for folder": ("batches", lambda path: path.symlink_to("nowhere"), "not a folder"),
}


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", EXISTING)
def test_existing_path_that_is_not_the_result_raises(site, tmp_path, capsys, kind, local):
    name, create, problem = EXISTING[kind]
    create(tmp_path / name)
    item = plain_item() if name == "thing.bin" else tar_item(packed({"batches/one": b"1"}))
    options = {"source": tmp_path} if local else {"base_url": site.url}
    error = printed_line(capsys, item, tmp_path, **options)
    assert f"{tmp_path / name}: {problem}" in error and error.endswith("move it away and fetch again\n")
    assert site.requests == [] and files_in(tmp_path) == [name]


def test_existing_folder_with_other_files_raises(site, tmp_path, capsys):
    contents = {"one": hashlib.md5(b"1").hexdigest(), "texts": ""}
    item = replace(tar_item(packed({"batches/one": b"1", "batches/texts/a": b""})), contents=contents)
    folder = tmp_path / "batches"
    (folder / "texts").mkdir(parents=True)
    for content in (None, b"2", b"1"):
        if content is not None:
            (folder / "one").write_bytes(content)
        if content != b"1":
            error = printed_line(capsys, item, tmp_path, base_url=site.url)
            assert "the existing folder has no one, or a wrong one; move it away" in error
    assert get(item, tmp_path, base_url=site.url) == folder
    (folder / "texts").rmdir()
    assert "has no texts" in printed_line(capsys, item, tmp_path, base_url=site.url)


@pytest.mark.parametrize(("name", "dataset"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_contents_of_archives_are_those_of_torchvision(name, dataset):
    published = {**dict([*dataset.train_list, *dataset.test_list]), dataset.meta["filename"]: dataset.meta["md5"]}
    assert REMOTE_FILES[name][0].contents == published


# --- archives


def packed(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return raw.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def tar_item(raw: bytes) -> RemoteFile:
    return RemoteFile("http://example.invalid/a.tar.gz", sha256(raw), len(raw), "batches", "tar")


@pytest.mark.parametrize("local", [False, True])
def test_archive_is_unpacked_completely(site, tmp_path, local):
    raw = packed({"batches/one": b"1", "batches/deeper/two": b"22"})
    site.files["a.tar.gz"] = raw
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.tar.gz").write_bytes(raw)
    options = {"source": tmp_path / "from"} if local else {"base_url": site.url}
    folder = get(tar_item(raw), tmp_path / "to", **options)
    assert files_in(tmp_path / "to") == ["batches"] and (folder / "deeper" / "two").read_bytes() == b"22"
    assert get(tar_item(raw), tmp_path / "to", base_url="http://127.0.0.1:9") == folder


def header(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


DEEP = "/".join(["batches", *["d"] * 2000])
HOSTILE = {
    "parent": {"batches/a": b"1", "batches/../../evil": b"x"},
    "link out": {"batches/a": b"1", "batches/l": link("batches/l", "../../..")},
    "link absolute": {"batches/a": b"1", "batches/l": link("batches/l", "/etc/passwd")},
    "link next to folder": {"batches/a": b"1", "batches/l": link("batches/l", "../evil")},
    "link inside": {"batches/a": b"1", "batches/l": link("batches/l", "a")},
    "link for folder": {"other/a": b"1", "batches": link("batches", "other")},
    "hard link": {"batches/a": b"1", "batches/l": header("batches/l", type=tarfile.LNKTYPE, linkname="batches/a")},
    "device": {"batches/a": b"1", "batches/null": header("batches/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)},
    "pipe": {"batches/a": b"1", "batches/p": header("batches/p", type=tarfile.FIFOTYPE)},
    "2,000 folders": {"batches/a": b"1", DEEP: b"x"},
    "2,000 folders next to it": {"batches/a": b"1", DEEP.replace("batches", "other"): b"x"},
    "long name": {"batches/" + "n" * 300: b"x"},
    "file as folder": {"batches/a": b"1", "batches/a/b": b"2"},
    "folder as file": {"batches/a/b": b"2", "batches/a": b"1"},
    "file for folder": {"batches": b"1"},
    "bomb": {"batches/zeros": bytes(1 << 25)},
    "sparse": {
        "batches/sparse": header(
            "batches/sparse", size=1 << 10, pax_headers={"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1"}
        )
    },
    "sparse map": {
        "batches/sparse": header("batches/sparse", pax_headers={"GNU.sparse.map": "x,y", "GNU.sparse.size": "1"})
    },
    "terabyte": {"batches/a": b"1", "batches/large": header("batches/large", size=1 << 40)},
    "negative size": {"batches/large": header("batches/large", pax_headers={"size": "-1"})},
    "another folder": {"other/a": b"1"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_archive_that_escapes_destination_raises(site, tmp_path, kind):
    raw = packed(HOSTILE[kind])
    site.files["a.tar.gz"] = raw
    with pytest.raises(UserError, match=r"a\.tar\.gz\.part: (cannot be unpacked safely|no folder)"):
        get(tar_item(raw), tmp_path / "to", base_url=site.url)
    assert files_in(tmp_path) == ["to"] and files_in(tmp_path / "to") == []


@pytest.mark.parametrize("times", [{"mtime": "1e308"}, {"mtime": "nan"}, {"mtime": "-1e300"}, {"mtime": "x"}])
def test_damaged_time_of_member_is_ignored(site, tmp_path, times):
    raw = packed({"batches/a": header("batches/a", pax_headers=times)})
    site.files["a.tar.gz"] = raw
    assert files_in(get(tar_item(raw), tmp_path, base_url=site.url)) == ["a"]


def test_absolute_name_in_archive_stays_inside_and_is_dropped(site, tmp_path):
    outside = tmp_path / "evil"
    raw = packed({"batches/a": b"1", str(outside): b"x"})
    site.files["a.tar.gz"] = raw
    get(tar_item(raw), tmp_path / "to", base_url=site.url)
    assert not outside.exists() and files_in(tmp_path / "to") == ["batches"]


def test_damaged_archive_raises(site, tmp_path):
    whole = packed({"batches/one": bytes(100_000)})
    for raw in (whole[:-30], b"no archive", gzip.compress(b"no tar")):
        site.files["a.tar.gz"] = raw
        with pytest.raises(UserError, match="cannot be unpacked safely"):
            get(tar_item(raw), tmp_path, base_url=site.url)
        assert files_in(tmp_path) == []


def gz_item(content: bytes, raw: bytes) -> RemoteFile:
    url = "http://example.invalid/x-ubyte.gz"
    return RemoteFile(url, sha256(raw), len(raw), "MNIST/raw/x-ubyte", "gz", len(content), sha256(content))


def test_gzipped_file_is_unpacked_to_result_path(site, tmp_path):
    content = b"digits" * 1000
    raw = gzip.compress(content)
    site.files["x-ubyte.gz"] = raw
    path = get(gz_item(content, raw), tmp_path, base_url=site.url)
    assert path == tmp_path / "MNIST" / "raw" / "x-ubyte" and path.read_bytes() == content
    assert files_in(path.parent) == ["x-ubyte"]


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("form", ["gz", "recompressed", "plain"])
def test_local_copy_is_verified_by_content_for_any_compression(tmp_path, place, form):
    content = b"digits" * 1000
    folder = tmp_path / "from" / place
    folder.mkdir(parents=True)
    raw = gzip.compress(content, mtime=0)
    name = "x-ubyte" if form == "plain" else "x-ubyte.gz"
    written = {"gz": raw, "recompressed": gzip.compress(content, 1, mtime=7), "plain": content}[form]
    (folder / name).write_bytes(written)
    path = get(gz_item(content, raw), tmp_path / "to", source=tmp_path / "from")
    assert path.read_bytes() == content
    assert (folder / name).read_bytes() == written


@pytest.mark.parametrize("wrong", [b"digitz" * 1000, b"digits" * 10**6, b"digits", b""])
def test_local_copy_with_wrong_content_raises(tmp_path, wrong):
    content = b"digits" * 1000
    (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(wrong))
    with pytest.raises(UserError, match="the content is not x-ubyte"):
        get(gz_item(content, b""), tmp_path / "to", source=tmp_path)
    assert not [path for path in (tmp_path / "to").rglob("*") if path.is_file()]
    (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(UserError, match="damaged gzip file"):
        get(gz_item(content, b""), tmp_path / "to", source=tmp_path)


def test_unpacking_stops_at_expected_size(tmp_path):
    (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(bytes(40_000_000)))
    tracemalloc.start()
    with pytest.raises(UserError, match="the content is not x-ubyte"):
        get(gz_item(b"digits", b""), tmp_path / "to", source=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_local_plain_file_is_verified(tmp_path):
    with pytest.raises(UserError, match=r"no thing\.bin"):
        get(plain_item(), tmp_path / "to", source=tmp_path)
    (tmp_path / "thing.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="SHA-256 .* expected"):
        get(plain_item(), tmp_path / "to", source=tmp_path)
    assert files_in(tmp_path / "to") == []
    (tmp_path / "thing.bin").write_bytes(CONTENT)
    assert get(plain_item(), tmp_path / "to", source=tmp_path).read_bytes() == CONTENT


# --- the table and the command


def test_table_entries_are_complete():
    assert list(REMOTE_FILES)[:5] == ["cifar10", "cifar100", "mnist", "fashion-mnist", "cub200"]
    for item in (item for items in REMOTE_FILES.values() for item in items):
        assert len(item.sha256) == 64 and set(item.sha256) <= set("0123456789abcdef")
        assert item.url.startswith(("https://", "http://fashion-mnist.s3-website"))
        if item.file.endswith(".th"):  # the name contains the first digits
            assert item.file.removesuffix(".th").split("-")[1] == item.sha256[:8]
        assert (item.unpack == "gz") == (len(item.content_sha256) == 64) == (item.content_size > 0)


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the real weights are not next to the project")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_real_weights_pass_verification(tmp_path, name, capsys):
    assert fetching.main([name, "--from", str(SHARED / "weights"), "--to", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / REMOTE_FILES[name][0].file) and printed.err == ""
    assert Path(printed.out.strip()).stat().st_size == REMOTE_FILES[name][0].size


@pytest.mark.skipif(not (SHARED / "data" / "mnist").is_dir(), reason="the real MNIST is not next to the project")
def test_real_mnist_passes_verification_and_is_read(tmp_path):
    assert fetching.main(["mnist", "--from", str(SHARED / "data" / "mnist"), "--to", str(tmp_path)]) == 0
    assert len(load_dataset("mnist", tmp_path).train) == 60_000


def test_invalid_input_is_one_line_with_status_2(tmp_path, capsys):
    wrong = [
        [],
        ["digits"],
        ["mnist", "--from", str(tmp_path / "nowhere")],
        ["mnist", "--from", str(tmp_path), "--base-url", "http://127.0.0.1:9"],
        ["mnist", "--base-url", "gopher://x", "--to", str(tmp_path)],
    ]
    (tmp_path / "file").write_text("")
    wrong.append(["resnet20", "--to", str(tmp_path / "file"), "--base-url", "http://127.0.0.1:9"])
    for argv in wrong:
        assert fetching.main(argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("error: ") and "Traceback" not in error


def test_default_folder_is_shared_by_packages(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPRESSION_PAPERS_DATA", raising=False)
    monkeypatch.setattr("common.downloads.PROJECT", tmp_path / "checkout")
    (tmp_path / "checkout" / "decore").mkdir(parents=True)
    (tmp_path / "checkout" / "constraints.txt").write_text("")
    for folder, expected in (
        (tmp_path, "data"),
        (tmp_path / "checkout", "data"),
        (tmp_path / "checkout/decore", "../data"),
    ):
        monkeypatch.chdir(folder)
        assert default_root("mnist") == Path(expected, "mnist")
    (tmp_path / "checkout" / "decore" / "data" / "mnist").mkdir(parents=True)  # where earlier versions looked
    assert default_root("mnist") == Path("data/mnist") and default_root("cifar10") == Path("../data/cifar10")
    monkeypatch.setenv("COMPRESSION_PAPERS_DATA", "/big")
    assert default_root("mnist") == Path("/big/mnist")


def test_plan_finds_data_and_weights_in_shared_folder(tmp_path, monkeypatch):
    job = Job("a", ("python", "{data:mnist}", "{weights:resnet20}"), tmp_path, "a")
    outputs = {"a": tmp_path, "dense/resnet20": Path("dense")}
    monkeypatch.setenv("COMPRESSION_PAPERS_DATA", str(tmp_path / "shared"))
    assert resolve(job, outputs)[1:] == (f"{tmp_path}/shared/mnist", "dense/model.safetensors")
    (tmp_path / "shared" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    file = tmp_path / "shared" / "weights" / "resnet20-12fca82f.th"
    file.parent.mkdir()
    file.write_text("")
    assert resolve(job, outputs)[1:] == (f"{tmp_path}/shared/mnist", str(file))
    monkeypatch.delenv("COMPRESSION_PAPERS_DATA")
    assert resolve(job, outputs)[1:] == (f"{tmp_path}/data/mnist", "dense/model.safetensors")
