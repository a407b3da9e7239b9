"""Downloads from a local server: complete, resumed, failed; hostile archives."""

import gzip
import hashlib
import io
import tarfile
import threading
import tracemalloc
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common import fetch as fetching
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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


HOSTILE = {
    "parent": {"batches/a": b"1", "batches/../../evil": b"x"},
    "link out": {"batches/a": b"1", "batches/l": link("batches/l", "../../..")},
    "link absolute": {"batches/a": b"1", "batches/l": link("batches/l", "/etc/passwd")},
    "another folder": {"other/a": b"1"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_archive_that_escapes_destination_raises(site, tmp_path, kind):
    raw = packed(HOSTILE[kind])
    site.files["a.tar.gz"] = raw
    with pytest.raises(UserError, match=r"a\.tar\.gz\.part: (cannot be unpacked safely|no folder)"):
        get(tar_item(raw), tmp_path / "to", base_url=site.url)
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "to" / "batches").exists()
    assert not (tmp_path / "to" / ".batches.unpacking").exists()


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
        assert "batches" not in files_in(tmp_path)


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


def test_default_folder_depends_on_environment(monkeypatch):
    monkeypatch.delenv("COMPRESSION_PAPERS_DATA", raising=False)
    assert default_root("mnist") == Path("data/mnist")
    monkeypatch.setenv("COMPRESSION_PAPERS_DATA", "/big")
    assert default_root("mnist") == Path("/big/mnist")
