"""Checkpoints: saved states are restored, damaged ones are skipped, nothing is ever unpickled."""

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retain.platform.errors import UserError
from retain.platform.ledger.documents import checksum
from retain.platform.trial import checkpoint

NAMES = {"tensors.safetensors", "state.json", "manifest.json"}


def same(one: Any, other: Any) -> bool:
    """Return whether values, types and bits are equal; a tuple is restored as a list."""
    if isinstance(one, torch.Tensor):
        alike = isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return alike and torch.equal(one.contiguous().view(-1).view(torch.uint8), other.view(-1).view(torch.uint8))
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def state_of(number: int) -> dict[str, Any]:
    """Return a small state that holds its number."""
    return {"number": number, "x": torch.full((50,), float(number))}


def save(folder: Path, number: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint and wait until it is complete."""
    with checkpoint.CheckpointWriter(folder, keep, "mine") as writer:
        writer.save(checkpoint.checkpoint_name(number), state)
    return folder / checkpoint.checkpoint_name(number)


def back(folder: Path, state: dict[str, Any]) -> Any:
    """Save a state and load it."""
    save(folder, 1, state, keep=1)
    return checkpoint.load_newest_checkpoint(folder)


SHARED = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"none": None, "true": True, "one": 1, "real": 0.1, "text": "ß/\n", "large": 2**80, "list": [], "dict": {}},
        {"nested": {"empty": {}, "list": [{"a": [None, {}]}, [], "x"]}, "tuple": (0.9, 0.999)},
        {"inf": [math.inf, -math.inf], "nan": math.nan, "tiny": 5e-324, "third": 1 / 3},
        {"bool": torch.tensor([True, False]), "byte": torch.arange(256).to(torch.uint8), "long": torch.tensor([2**62])},
        {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "double": torch.tensor([1 / 3], dtype=torch.float64)},
        {"half": torch.tensor([1.5], dtype=torch.bfloat16), "nan": torch.tensor([math.nan, -0.0, math.inf])},
        {
            "shared": [SHARED, SHARED, {"again": SHARED}],
            "view": SHARED[1],
            "turned": SHARED.t(),
            "step": SHARED[:, ::2],
        },
        {"gradient": torch.ones(2, requires_grad=True) * 2, "parameter": torch.nn.Parameter(torch.ones(2))},
        {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "mixed": {"a": 1, 2: torch.ones(1)}},
        {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "0": [torch.ones(2)], "": torch.tensor(7)},
        {"__tensor__": "a name", "inner": {"__pairs__": [[1, 2]], "x": torch.ones(1)}},
    ],
)
def test_round_trip(state: dict[str, Any], tmp_path: Path) -> None:
    restored = back(tmp_path, state)
    assert same({key: _plain(value) for key, value in state.items()}, restored)


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
_keys = st.text("ab/_", max_size=3) | st.integers(0, 3)
_trees = st.recursive(
    _leaves | st.lists(st.floats(width=32), max_size=3).map(torch.tensor),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_trees)
def test_round_trip_of_any_tree(tree: Any, quick_folder: Path) -> None:
    assert same({"tree": tree}, back(quick_folder / "trees", {"tree": tree}))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimizer_resumes_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    """Integer keys, 0-d steps, tuples of betas."""

    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        made: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "adam": lambda p: torch.optim.Adam(p, lr=0.1),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
        }
        return layer, made[name](layer.parameters())

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    layer, optimizer = make()
    step(layer, optimizer)
    restored = back(tmp_path, {"layer": dict(layer.state_dict()), "optimizer": optimizer.state_dict()})
    other_layer, other = make()
    other_layer.load_state_dict(restored["layer"])
    other.load_state_dict(restored["optimizer"])
    for pair in ((layer, optimizer), (other_layer, other)):
        step(*pair)
    assert torch.equal(layer.weight, other_layer.weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "x/0: a state holds tensors"),
        ({1, 2}, "not set"),
        (lambda: 1, "not function"),
        (b"bytes", "not bytes"),
        (Path("a"), "not PosixPath"),
        ({(1, 2): 3}, "the keys of a state are strings or integers"),
        (torch.Generator(), "not Generator"),
    ],
)
def test_unknown_objects_are_refused_with_their_path(value: Any, message: str, tmp_path: Path) -> None:
    """They are refused when saving, while the trial can still report it; earlier checkpoints stay."""
    save(tmp_path, 1, state_of(1), keep=2)
    with pytest.raises(TypeError, match=message):
        save(tmp_path, 2, {"x": [value]}, keep=2)
    restored = checkpoint.load_newest_checkpoint(tmp_path)
    assert restored is not None and restored["number"] == 1


def test_nothing_is_pickled_and_no_other_file_is_left(tmp_path: Path) -> None:
    """Two files and a manifest with their checksums; tensors are safetensors, the rest is JSON."""
    folder = save(tmp_path, 3, state_of(3), keep=2)
    assert folder == tmp_path / "000003" and {path.name for path in folder.iterdir()} == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["000003"]
    data = (folder / "tensors.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert [entry["dtype"] for name, entry in header.items() if name != "__metadata__"] == ["F32"]
    assert json.loads((folder / "state.json").read_text())["number"] == 3
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() == NAMES - {"manifest.json"}


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_newest_checkpoints_are_kept(keep: int, left: list[int], tmp_path: Path) -> None:
    for number in range(1, 6):
        save(tmp_path, number, state_of(number), keep)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == left
    restored = checkpoint.load_newest_checkpoint(tmp_path)
    assert restored is not None and restored["number"] == 5


def test_a_checkpoint_can_be_overwritten(tmp_path: Path) -> None:
    save(tmp_path, 1, state_of(1), keep=2)
    save(tmp_path, 1, state_of(8), keep=2)
    restored = checkpoint.load_newest_checkpoint(tmp_path)
    assert restored is not None and restored["number"] == 8


def test_loading_returns_none_without_a_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load_newest_checkpoint(tmp_path / "absent") is None
    tmp_path.joinpath("notes.txt").touch()
    assert checkpoint.load_newest_checkpoint(tmp_path) is None


def test_leftovers_of_a_killed_process_are_ignored_and_removed(tmp_path: Path) -> None:
    """The process died while it wrote number 2."""
    save(tmp_path, 1, state_of(1), keep=2)
    left = tmp_path / ".000002.99999.tmp"
    shutil.copytree(tmp_path / "000001", left)
    (left / "state.json").write_text('{"number": 2, "x"')
    restored = checkpoint.load_newest_checkpoint(tmp_path)
    assert restored is not None and restored["number"] == 1
    save(tmp_path, 2, state_of(2), keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"000001", "000002"}


def _flip(name: str, at: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(at * (len(data) - 1))] ^= 4
        (folder / name).write_bytes(data)

    return damage


def _cut(name: str, part: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(part * len(data))])

    return damage


def _manifest(**changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changed))

    return damage


DAMAGES = {
    "first byte of the tensors": _flip("tensors.safetensors", 0),
    "header of the tensors": _flip("tensors.safetensors", 0.1),
    "last byte of the tensors": _flip("tensors.safetensors", 1),
    "a byte of the state": _flip("state.json", 0.5),
    "a byte of a sum": _flip("manifest.json", 0.9),
    "tensors cut": _cut("tensors.safetensors", 0.9),
    "tensors empty": _cut("tensors.safetensors", 0),
    "state cut": _cut("state.json", 0.5),
    "manifest cut": _cut("manifest.json", 0.5),
    "manifest empty": _cut("manifest.json", 0),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no tensors": lambda folder: (folder / "tensors.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()] and None,
    "another format, not by us": _manifest(format=3),
    "another owner, not by us": _manifest(config="theirs"),
    "no sums": _manifest(files={}),
    "no sum of itself": _manifest(sha256=None),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[]") and None,
    "a manifest of other bytes": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00") and None,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_skipped_for_the_previous_one(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        save(tmp_path, number, state_of(number), keep=2)
    damage(tmp_path / "000002")
    with caplog.at_level(logging.WARNING):
        restored = checkpoint.load_newest_checkpoint(tmp_path)
    assert restored is not None and same(state_of(1), restored)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{tmp_path / '000002'} is passed over: " in caplog.text


def test_any_flipped_bit_of_the_manifest_is_detected_or_harmless(tmp_path: Path) -> None:
    save(tmp_path, 1, state_of(1), keep=1)
    data = (tmp_path / "000001" / "manifest.json").read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        (tmp_path / "000001" / "manifest.json").write_bytes(flipped)
        restored = checkpoint.load_newest_checkpoint(tmp_path)
        assert restored is None or same(state_of(1), restored)


def test_damaged_checkpoints_do_not_displace_new_ones(tmp_path: Path) -> None:
    """After 2 and 3 were damaged, a trial starts again: its number 1 must stay until a newer one exists."""
    for number in (1, 2, 3):
        save(tmp_path, number, state_of(number), keep=2)
    for name in ("000002", "000003"):
        _flip("state.json", 0.5)(tmp_path / name)
    save(tmp_path, 1, state_of(1), keep=2)
    restored = checkpoint.load_newest_checkpoint(tmp_path)
    assert restored is not None and restored["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def _rewritten(**changed: Any) -> Callable[[Path], None]:
    """Return a function that writes a valid manifest with other content: of another version of retain, or another trial."""

    def rewrite(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text()) | changed
        del manifest["sha256"]
        text = json.dumps({**manifest, "sha256": checksum(manifest)})
        (folder / "manifest.json").write_text(text)

    return rewrite


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rewritten(format=3), "is a 'retain checkpoint' of format 3: this version of retain reads format 2"),
        (_rewritten(format=1), "of format 1"),
        (_rewritten(kind="weights"), "is a 'weights' of format 2"),
        (_rewritten(config="theirs"), "belongs to another trial"),
    ],
)
def test_a_checkpoint_of_another_trial_or_newer_version_is_refused_and_kept(
    change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    """If it were skipped, it would be lost: the trial would start again and remove it."""
    for number in (1, 2):
        save(tmp_path, number, state_of(number), keep=2)
    change(tmp_path / "000002")
    with pytest.raises(UserError, match=message):
        checkpoint.load_newest_checkpoint(tmp_path, "mine")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000001", "000002"]


def test_checkpoint_names_sort_by_time() -> None:
    places = [(0, 1), (0, 99), (0, 100), (1, None), (1, 0), (1, 7), (2, None), (10, None), (10, 3)]
    names = [checkpoint.checkpoint_name(*place) for place in places]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert names[3] == "000001" and names[5] == "000001+000000007"


def test_the_state_is_copied_before_training_continues(tmp_path: Path) -> None:
    """The state at the call is written, even if the tensors change in the meantime."""
    x = torch.zeros(2_000_000)
    with checkpoint.CheckpointWriter(tmp_path, 9, "mine") as writer:
        for number in range(1, 4):
            x.fill_(number)
            writer.save(checkpoint.checkpoint_name(number), {"number": number, "x": x})
        x.fill_(-1)
    states = [(state["number"], state["x"].unique().tolist()) for _, state in checkpoint.valid_checkpoints(tmp_path)]
    assert states == [(3, [3.0]), (2, [2.0]), (1, [1.0])]


def test_errors_in_the_writer_thread_are_raised(tmp_path: Path) -> None:
    """Here a file has the folder's name; the next call raises, or leaving the context."""
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError), checkpoint.CheckpointWriter(tmp_path / "checkpoints", 1, "mine") as writer:
        writer.save("000001", state_of(1))
    with checkpoint.CheckpointWriter(tmp_path / "checkpoints", 1, "mine") as writer:
        writer.save("000001", state_of(1))
        with pytest.raises(OSError):
            writer.save("000002", state_of(2))
        (tmp_path / "checkpoints").unlink()
    assert checkpoint.load_newest_checkpoint(tmp_path / "checkpoints") is None


def test_a_temporary_read_error_loses_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that exists and cannot be opened now is not damaged: the trial must not start again because of it."""
    save(tmp_path, 1, state_of(1), keep=1)
    really_open = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("manifest.json"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return really_open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(OSError, match="Too many open files"):
            checkpoint.load_newest_checkpoint(tmp_path)
    assert checkpoint.load_newest_checkpoint(tmp_path) is not None
