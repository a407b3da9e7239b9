"""Transfer the results of a campaign to another machine as ZIP files (pieces) of limited size and number.

Order: small files (JSON, logs) of all finished jobs; files that jobs keep, with weights rounded to float16 and split into
shards if larger than a piece; the state of unfinished jobs. Files that do not fit are reported.
"""

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from common.atomic import atomic_file, write_json
from common.campaign.campaign_folder import DONE, FAILED, JOB_KEYS, PLAN_COPY, REQUESTED, CampaignFolder
from common.campaign.plan import NAME
from common.checkpoint import join_shards, write_half
from common.checkpoint_header import INDEX
from common.errors import UserError
from common.runs import PROGRESS, STATE

SMALL = (".json", ".csv", ".txt", ".log", ".jsonl")
SMALL_LIMIT = 2**20
OVERHEAD = 4096  # bytes per ZIP file and per entry in addition to the contents
MERGED_LIMIT = 8 * 2**30


def collect(folder: CampaignFolder, to: Path, files: int, size: int) -> tuple[list[Path], list[str]]:
    """Write at most ``files`` pieces of at most ``size`` bytes; return (pieces, names of files that did not fit)."""
    to.mkdir(parents=True, exist_ok=True)
    pieces: list[list[tuple[str, Path]]] = []
    room: list[int] = []
    left_out = []
    with tempfile.TemporaryDirectory() as scratch:
        for group in _file_groups(folder, Path(scratch), size - 2 * OVERHEAD):
            if not _place(group, pieces, room, files, size):
                left_out += [name for name, _ in group]
        written = [_write(to / f"piece-{i + 1}.zip", piece) for i, piece in enumerate(pieces)]
    for old in to.glob("piece-*.zip"):
        if old not in written:
            old.unlink()
    return written, left_out


def _file_groups(folder: CampaignFolder, scratch: Path, size: int) -> Iterator[list[tuple[str, Path]]]:
    """Yield groups of (name in the campaign folder, file). A group, such as all shards of a file, is packed completely or not at all."""
    jobs, seen = folder.jobs(), set[Path]()
    done = [job for job in jobs if folder.is_done(job["name"], job["identity"])]
    yield [(PLAN_COPY, folder.root / PLAN_COPY)]
    for job in jobs:
        place = folder.job(job["name"])
        found = [place / name for name in (DONE, REQUESTED, FAILED, "log.txt")]
        if job in done:
            found += _small(folder.root / "runs" / job["out"])
        found = [file for file in found if file.is_file() and file not in seen]
        seen |= set(found)
        yield [(_name(folder, file), file) for file in found if file.stat().st_size <= SMALL_LIMIT]
        yield from ([(_name(folder, file), file)] for file in found if file.stat().st_size > SMALL_LIMIT)
    for job in done:
        for file in [file for file in _kept(folder.root / "runs" / job["out"], job["keep"]) if file not in seen]:
            seen.add(file)
            yield _packed_file(folder, file, scratch / str(len(list(scratch.iterdir()))), size)
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


def _packed_file(folder: CampaignFolder, file: Path, scratch: Path, size: int) -> list[tuple[str, Path]]:
    """Prepare a kept file: weights are rounded to float16 and split into shards if larger than a piece."""
    if file.suffix != ".safetensors":
        return [(_name(folder, file), file)]
    scratch.mkdir(parents=True)
    within = PurePosixPath(_name(folder, file)).parent
    return [(str(within / part.name), part) for part in write_half(file, scratch / file.name, size)]


def _name(folder: CampaignFolder, file: Path) -> str:
    return file.relative_to(folder.root).as_posix()


def _place(
    group: Sequence[tuple[str, Path]], pieces: list[list[tuple[str, Path]]], room: list[int], files: int, size: int
) -> bool:
    """Place the files of a group into the fullest pieces with room; if they do not fit, change nothing and return False."""
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
    """Unpack pieces into a campaign folder, join sharded weights, and return the names of the jobs that are new there.

    Finished jobs of the folder are kept; an unfinished job that is finished in the pieces is moved to ``stale/``.
    Raises UserError for an invalid piece, a job that was finished in both places with different options, and a missing shard.
    """
    folder, contents = CampaignFolder(into), [_checked_names(piece) for piece in pieces]
    for piece, names in zip(pieces, contents, strict=True):
        _check_identities(piece, names, folder)
    arriving = [job for piece in pieces for job in _jobs_of(piece)]
    known = {job["name"]: job for job in [*arriving, *folder.jobs()]}
    there = {name for names in contents for name in names}
    kept = {job["out"] for job in known.values() if folder.record(job["name"]) is not None}
    for job in known.values():
        output = into / "runs" / job["out"]
        if f"jobs/{job['name']}/{DONE}" in there and job["out"] not in kept and output.exists():
            folder.move_to_stale(output, job["out"])
    arrived = [path for piece in pieces for path in _unpack(piece, folder)]
    write_json(into / PLAN_COPY, {"jobs": list(known.values())})
    for index in sorted(into.glob(f"runs/**/*{INDEX}")):
        whole = index.with_name(index.name.removesuffix(INDEX))  # the original file name
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


def _unpack(piece: Path, folder: CampaignFolder) -> list[Path]:
    """Write the files that do not exist yet, `done` last."""
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


def _checked_names(piece: Path) -> list[str]:
    """Return the names in a piece, after checking that they are relative, inside a campaign folder and of bounded size."""
    try:
        with zipfile.ZipFile(piece) as archive:
            entries = archive.infolist()
            damaged = archive.testzip() if sum(entry.file_size for entry in entries) <= MERGED_LIMIT else None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise UserError(f"{piece}: not a piece of a campaign: {error}") from error
    if damaged is not None:
        raise UserError(f"{piece}: checksum mismatch for {damaged[:100]!r}; collect the piece again")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        inside = path.parts and (path.parts[0] in ("jobs", "runs") or str(path) == PLAN_COPY)
        if not inside or path.is_absolute() or ".." in path.parts or "\\" in entry.filename or entry.is_dir():
            raise UserError(f"{piece}: not a piece of a campaign: unexpected entry {entry.filename[:100]!r}")
    if sum(entry.file_size for entry in entries) > MERGED_LIMIT:
        raise UserError(f"{piece}: the unpacked size exceeds {MERGED_LIMIT} bytes")
    return [entry.filename for entry in entries]


def _check_identities(piece: Path, names: Sequence[str], folder: CampaignFolder) -> None:
    with zipfile.ZipFile(piece) as archive:
        for name in names:
            path = PurePosixPath(name)
            if path.name != DONE or path.parts[0] != "jobs":
                continue
            job = "/".join(path.parts[1:-1])
            here, there = folder.record(job), _json(archive.read(name))
            if here is not None and here.get("identity") != there.get("identity"):
                raise UserError(
                    f"{piece}: {job} was run with different options in {folder.root}; merge into another folder"
                )


def _json(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}
