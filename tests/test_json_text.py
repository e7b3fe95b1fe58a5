"""The text of a run folder's JSON: what is written quickly is what Python's `json` writes, and what no number is is refused."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from retain.platform.ledger.documents import canonical_json, checksum, indented_json, read_json, strict_json, write_json

NUMBERS = [0.0, -0.0, 1.0, 0.1, 1e-9, 1e22, 5 / 6]
OTHERS = [None, True, 1, 2**60, "é\u2028", ""]


def random_value(draw: random.Random, depth: int = 0) -> Any:
    """Return plain data: nested mappings and lists, short and long rows of numbers, rows with a gap."""
    kind = draw.choice(["mapping", "list", "row", "mixed", "other"] if depth < 4 else ["row", "mixed", "other"])
    if kind == "mapping":
        return {draw.choice("abé\n") * draw.randrange(3): random_value(draw, depth + 1) for _ in range(3)}
    if kind == "list":
        return [random_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == "row":
        return [draw.choice(NUMBERS) for _ in range(draw.choice([3, 15, 16, 40]))]
    if kind == "mixed":
        return [draw.choice([*NUMBERS, *OTHERS]) for _ in range(draw.choice([3, 20]))]
    return draw.choice([*NUMBERS, *OTHERS])


@pytest.mark.parametrize("seed", range(5))
def test_the_quick_texts_are_those_of_the_standard_library(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(300):
        value = random_value(draw)
        assert indented_json(value) == json.dumps(value, indent=1)
        assert canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_a_matrix_that_is_written_again_with_one_more_row_is_read_back(tmp_path: Path) -> None:
    draw = random.Random(0)
    matrix = [[float("nan")] * 20 for _ in range(21)]
    for row in range(21):
        matrix[row] = [draw.random() for _ in range(20)]
        write_json(tmp_path / "matrix.json", {"task_agnostic": matrix})
        expected = {"schema": 2, "task_agnostic": [row if row[0] == row[0] else [None] * 20 for row in matrix]}
        assert read_json(tmp_path / "matrix.json") == expected
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert checksum(expected) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("number", ["1e400", "-1.5E+999", "1e99999999", "1" * 30, "[1, 2.0e1000]", '{"a": 3e309}'])
def test_numbers_that_are_too_large_are_refused(number: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        strict_json(number.encode())


@pytest.mark.parametrize("text", ['"1e999a"', '"3e045"', '["a5e1234b"]', "1e308", "12e-999"])
def test_checksums_and_small_numbers_are_read(text: str) -> None:
    assert strict_json(text.encode()) is not None
