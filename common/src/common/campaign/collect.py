"""Take a campaign's results from one machine to another in pieces of a given size and number.

First what is small of every finished job (JSON, logs), then the files that jobs keep, weights rounded to float16 and in shards
where they are larger than a piece, then the state of unfinished jobs; what does not fit is named and stays.
"""

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from common.atomic import atomic_file, write_json
from common.campaign.folder import ASKED, DONE, FAILED, JOB_KEYS, PLAN_COPY, Folder
from common.campaign.plan import NAME
from common.checkpoint import INDEX, join_shards, write_half
from common.errors import UserError
from common.runs import PROGRESS, STATE

SMALL = (".json", ".csv", ".txt", ".log", ".jsonl")
SMALL_LIMIT = 2**20
OVERHEAD = 4096  # bytes of a ZIP file beside its contents, and for each entry
MERGED_LIMIT = 8 * 2**30


def collect(folder: Folder, to: Path, files: int, size: int) -> tuple[list[Path], list[str]]:
    """Write at most ``files`` pieces of at most ``size`` bytes; (the pieces, names of what did not fit)."""
    to.mkdir(parents=True, exist_ok=True)
    pieces: list[list[tuple[str, Path]]] = []
    room: list[int] = []
    left_out = []
    with tempfile.TemporaryDirectory() as scratch:
        for group in _wanted(folder, Path(scratch), size - 2 * OVERHEAD):
            if not _place(group, pieces, room, files, size):
                left_out += [name for name, _ in group]
        written = [_write(to / f"piece-{i + 1}.zip", piece) for i, piece in enumerate(pieces)]
    for old in to.glob("piece-*.zip"):
        if old not in written:
            old.unlink()
    return written, left_out


def _wanted(folder: Folder, scratch: Path, size: int) -> Iterator[list[tuple[str, Path]]]:
    """Groups of (name in the campaign's folder, file): a group is taken whole, shard by shard, or not at all."""
    jobs, seen = folder.jobs(), set[Path]()
    done = [job for job in jobs if folder.is_done(job["name"], job["identity"])]
    yield [(PLAN_COPY, folder.root / PLAN_COPY)]
    for job in jobs:
        place = folder.job(job["name"])
        found = [place / name for name in (DONE, ASKED, FAILED, "log.txt")]
        if job in done:
            found += _small(folder.root / "runs" / job["out"])
        found = [file for file in found if file.is_file() and file not in seen]
        seen |= set(found)
        yield [(_name(folder, file), file) for file in found if file.stat().st_size <= SMALL_LIMIT]
        yield from ([(_name(folder, file), file)] for file in found if file.stat().st_size > SMALL_LIMIT)
    for job in done:
        for file in [file for file in _kept(folder.root / "runs" / job["out"], job["keep"]) if file not in seen]:
            seen.add(file)
            yield _packed(folder, file, scratch / str(len(list(scratch.iterdir()))), size)
    for job in jobs:
        out = folder.root / "runs" / job["out"]
        if job not in done and any(any(out.rglob(name)) for name in (STATE, PROGRESS)):
            files = sorted(file for file in out.rglob("*") if file.is_file() and file not in seen)
            seen |= set(files)
            yield [(_name(folder, file), file) for file in files]


def _small(out: Path) -> list[Path]:
    return sorted(file for file in out.rglob("*") if file.is_file() and file.suffix in SMALL)


def _kept(out: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in out.glob(pattern) if file.is_file()})


def _packed(folder: Folder, file: Path, scratch: Path, size: int) -> list[tuple[str, Path]]:
    """A kept file; weights rounded to float16, in shards if they are larger than a piece."""
    if file.suffix != ".safetensors":
        return [(_name(folder, file), file)]
    scratch.mkdir(parents=True)
    within = PurePosixPath(_name(folder, file)).parent
    return [(str(within / part.name), part) for part in write_half(file, scratch / file.name, size)]


def _name(folder: Folder, file: Path) -> str:
    return file.relative_to(folder.root).as_posix()


def _place(
    group: Sequence[tuple[str, Path]], pieces: list[list[tuple[str, Path]]], room: list[int], files: int, size: int
) -> bool:
    """Put the files of a group into pieces, the fullest that has room first; False, and nothing put, if they do not fit."""
    before = [list(piece) for piece in pieces], list(room)
    for name, file in group:
        needed = file.stat().st_size + OVERHEAD
        fitting = [i for i, left in enumerate(room) if left >= needed]
        if not fitting and len(pieces) < files and needed <= size - OVERHEAD:
            pieces.append([])
            room.append(size - OVERHEAD)
            fitting = [len(pieces) - 1]
        if not fitting:
            pieces[:], room[:] = before
            return False
        place = min(fitting, key=lambda i: room[i])
        pieces[place].append((name, file))
        room[place] -= needed
    return True


def _write(path: Path, files: Sequence[tuple[str, Path]]) -> Path:
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, file in files:
            kind = zipfile.ZIP_DEFLATED if file.suffix in SMALL else zipfile.ZIP_STORED
            archive.write(file, name, compress_type=kind)
    return path


def merge(pieces: Sequence[Path], into: Path) -> list[str]:
    """Unpack pieces into a campaign's folder, and join weights that came in shards; the names of the jobs that are done there.

    What is done in the folder stays; what is unfinished there and done in the pieces is put aside. Raises UserError for a file
    that is no piece, a job that was done in both places with other options, and weights of which a shard is missing.
    """
    folder, contents = Folder(into), [_checked(piece) for piece in pieces]
    for piece, names in zip(pieces, contents, strict=True):
        _require_same(piece, names, folder)
    arriving = [job for piece in pieces for job in _jobs_of(piece)]
    known = {job["name"]: job for job in [*arriving, *folder.jobs()]}
    there = {name for names in contents for name in names}
    kept = {job["out"] for job in known.values() if folder.record(job["name"]) is not None}
    for job in known.values():
        output = into / "runs" / job["out"]
        if f"jobs/{job['name']}/{DONE}" in there and job["out"] not in kept and output.exists():
            folder.put_aside(output, job["out"])
    arrived = [path for piece in pieces for path in _unpack(piece, folder)]
    write_json(into / PLAN_COPY, {"jobs": list(known.values())})
    for index in sorted(into.glob(f"runs/**/*{INDEX}")):
        whole = index.with_name(index.name.removesuffix(INDEX))  # under the name that its job gave it
        if not whole.exists():
            join_shards(index, whole)
    done = [path for path in arrived if path.name == DONE]
    return sorted(path.parent.relative_to(into / "jobs").as_posix() for path in done)


def _jobs_of(piece: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(piece) as archive:
        found = _json(archive.read(PLAN_COPY)).get("jobs") if PLAN_COPY in archive.namelist() else []
    jobs = found if isinstance(found, list) else []
    return [job for job in jobs if isinstance(job, dict) and set(job) >= JOB_KEYS and _is_name(job["name"], job["out"])]


def _is_name(*names: object) -> bool:
    return all(isinstance(name, str) and NAME.fullmatch(name) is not None for name in names)


def _unpack(piece: Path, folder: Folder) -> list[Path]:
    """Write what is not there yet, `done` last; what jobs that are done here say of themselves stays."""
    arrived = []
    with zipfile.ZipFile(piece) as archive:
        for name in sorted(archive.namelist(), key=lambda name: PurePosixPath(name).name == DONE):
            target = folder.root / name
            if name == PLAN_COPY or target.exists():
                continue
            with atomic_file(target) as temporary:
                temporary.write_bytes(archive.read(name))
            arrived.append(target)
    return arrived


def _checked(piece: Path) -> list[str]:
    """The names in a piece: relative, within a campaign's folder, of bounded size."""
    try:
        with zipfile.ZipFile(piece) as archive:
            entries = archive.infolist()
            damaged = archive.testzip() if sum(entry.file_size for entry in entries) <= MERGED_LIMIT else None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise UserError(f"{piece} is not a piece of a campaign: {error}") from error
    if damaged is not None:
        raise UserError(f"{piece} is damaged: {damaged[:100]!r} does not match its checksum")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        inside = path.parts and (path.parts[0] in ("jobs", "runs") or str(path) == PLAN_COPY)
        if not inside or path.is_absolute() or ".." in path.parts or "\\" in entry.filename or entry.is_dir():
            raise UserError(f"{piece} is not a piece of a campaign: it holds {entry.filename[:100]!r}")
    if sum(entry.file_size for entry in entries) > MERGED_LIMIT:
        raise UserError(f"{piece} unpacks to more than {MERGED_LIMIT} bytes")
    return [entry.filename for entry in entries]


def _require_same(piece: Path, names: Sequence[str], folder: Folder) -> None:
    with zipfile.ZipFile(piece) as archive:
        for name in names:
            path = PurePosixPath(name)
            if path.name != DONE or path.parts[0] != "jobs":
                continue
            job = "/".join(path.parts[1:-1])
            here, there = folder.record(job), _json(archive.read(name))
            if here is not None and here.get("identity") != there.get("identity"):
                raise UserError(f"{piece}: {job} was done with other options than in {folder.root}")


def _json(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}
