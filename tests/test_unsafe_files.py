"""What may stand where a run folder's file belongs: readers end at once, with the file's name or without harm.

A folder may come from someone else. Pipes and devices would hang, links would lead out, large files would fill the memory.
"""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain.platform.errors import UserError
from retain.platform.files import digest, whole_lines
from retain.platform.ledger.documents import DamagedError
from retain.platform.ledger.reader import Trial, run_config, trials_of, unfinished_trials
from retain.platform.reporting.html_report import report
from retain.platform.reporting.projector_state import ProjectorState
from retain.platform.trial.checkpoint import load_newest_checkpoint

RUNS = Path(__file__).parent / "runs" / "present"
DOCUMENTS = ("trial.json", "status.json", "matrix.json", "summary.json", "environment.json", "projector.json")
FILES = (*DOCUMENTS, "config.yaml", "metrics.jsonl", *(f"checkpoints/1/{name}" for name in (
    "manifest.json", "state.json", "tensors.safetensors")), "probes/worst_errors-1.png", "probes/worst_errors-1.json",
)  # fmt: skip
DEADLINE = 60  # seconds; a hang is for ever


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a finished trial's folder with a file of each kind."""
    folder = tmp_path / "run"
    shutil.copytree(RUNS / "whole", folder)
    (checkpoint,) = (RUNS / "stopped" / "checkpoints").iterdir()
    shutil.copytree(checkpoint, folder / "checkpoints" / "1")
    ProjectorState(folder)
    (folder / "probes").mkdir()
    for kind in ("png", "json"):
        (folder / f"probes/worst_errors-1.{kind}").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Interrupt a read that waits for ever."""

    def interrupt(*_: Any) -> None:
        raise AssertionError("it hangs")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(DEADLINE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_link_out(path: Path) -> None:
    (outside,) = (folder.parent / "secret" for folder in path.parents if folder.name == "run")
    outside.touch()
    path.symlink_to(outside)


def put_circular_link(path: Path) -> None:
    path.symlink_to(path)


def put_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:  # by a short path: a socket's may have 107 bytes
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def put_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def put_noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


SPECIAL = (put_pipe, put_link_to_device, put_link_out, put_circular_link, put_socket)
ORDINARY = (put_huge, put_noise, Path.touch, Path.mkdir)
Put = Callable[[Path], None]


def read_everything(folder: Path) -> str:
    """Read all files of a trial, each as it is read somewhere; return the errors."""
    trial: Trial | None = None
    errors = []

    def read_events() -> None:
        assert trial is not None
        for _ in trial.events():
            pass

    def read_trial() -> None:
        nonlocal trial
        trial = Trial(folder)

    actions: list[Callable[[], object]] = [read_trial]
    if (folder / "trial.json").is_file():
        actions += [
            read_events, lambda: trial and trial.config(), lambda: trial and trial.status(),
            *(lambda name=name: trial and trial.read(name) for name in ("matrix", "summary", "environment")),
        ]  # fmt: skip
    actions += [lambda: run_config(folder), lambda: ProjectorState(folder)]
    actions += [lambda: load_newest_checkpoint(folder / "checkpoints")]
    for action in actions:
        try:
            action()
        except UserError as error:
            errors.append(str(error))
        except AssertionError:
            if trial is not None:
                raise
    return "\n".join(errors)


@pytest.mark.parametrize("put", SPECIAL, ids=lambda put: put.__name__)
@pytest.mark.parametrize("name", FILES)
def test_links_pipes_and_devices_are_refused_at_any_depth(run: Path, name: str, put: Put) -> None:
    (run / name).unlink()
    put(run / name)
    with pytest.raises(UserError, match=f"{name} is a (link|pipe)|has no trial.json"):
        trials_of(run)
    with pytest.raises(UserError):
        report([run])
    read_everything(run)  # nothing hangs there either, for code that opens a trial without the check


@pytest.mark.parametrize("put", ORDINARY, ids=lambda put: put.__name__)
@pytest.mark.parametrize("name", FILES)
def test_files_of_another_kind_size_or_content_are_named(run: Path, name: str, put: Put) -> None:
    (run / name).unlink()
    put(run / name)
    errors = read_everything(run)
    harmless = name.startswith(("checkpoints", "probes", "status")) or (name == "metrics.jsonl" and put is Path.touch)
    assert harmless or name in errors
    try:
        damages = [str(damage) for _, damage in unfinished_trials(trials_of(run))]
        report([run])
    except UserError as error:
        damages = [str(error)]
    assert all(name in damage for damage in damages)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "9" * 5000, "9" * 400, "[" * 100_000])
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".json", ".jsonl"))])
def test_numbers_that_json_does_not_have_are_damage(run: Path, name: str, number: str) -> None:
    """Python reads Infinity, and breaks at the others: some in the parser, some where they are used."""
    line = f'{{"schema": 1, "kind": "note", "experience": 1, "iteration": 1, "status": "done", "x": {number}}}\n'
    (run / name).write_text(line)
    errors = read_everything(run)
    assert name.startswith(("checkpoints", "probes", "status")) or f"{name} is damaged" in errors


def test_a_long_line_of_events_is_damage(run: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.truncate(2**26)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    with pytest.raises(DamagedError, match="a line has more than"):
        list(Trial(run).events())


def test_the_run_folder_itself_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert [trial.damage() for trial in trials_of(tmp_path / "link")] == [None]


@pytest.mark.parametrize("read", [digest, whole_lines])
def test_checksums_are_of_regular_files(tmp_path: Path, read: Callable[[Path], object]) -> None:
    put_pipe(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / "pipe")
