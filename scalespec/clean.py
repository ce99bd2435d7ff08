"""What nothing in use names: found, and removed when it is too old to be anybody's work."""

import os
import time
from collections.abc import Sequence

from scalespec.config import RunConfig
from scalespec.status import run_folders
from scalespec.store import paths
from scalespec.store.ledger import Ledger, current, is_digest, read_json
from scalespec.store.listing import list_unfinished

OLDER_THAN = 24.0
"""Age [hours] from which on something is removed.

A block's data are there before the commit that names them: by seconds, or by the time of one block.
"""

Written = dict[str, float]
"""Keys, and when they were written [seconds since 1970, UTC]."""


def clean_run(
    config: RunConfig, *, remove: bool, older_than: float = OLDER_THAN
) -> tuple[list[str], list[str]]:
    """Return, and with `remove` delete, what nothing in use names.

    Those are folders of digests that neither this run file, by a stage or by a path, nor a
    ``current.json`` names (a changed setting alone makes no catalog old), and objects in the other
    folders that no commit and no segment of a plan names: left by attempts that were killed or came
    second, or half-written when they were. A run at work names what it wrote a little later, so
    what is young stays, whoever wrote it.

    Parameters
    ----------
    config : RunConfig
    remove : bool
    older_than : float
        Hours. A folder, and a plan's lists, are as old as what was written there last. With 0,
        everything is taken: only where nothing runs.

    Returns
    -------
    old, young : list of str
        What is removed, or would be, and what nothing names either and stays for its age; sorted.
    """
    workspace = config.run.workspace
    # Keys before records: all that was committed by now is then named, whatever is committed since.
    half = list_unfinished(workspace)
    written = paths.list_modified(workspace) | half
    unnamed = _unnamed(config, written, half)
    now = time.time()
    young = {key for key, when in unnamed.items() if max(now - when, 0) < older_than * 3600}
    old = sorted(unnamed.keys() - young)
    if remove:
        _remove_folders(config, [key for key in old if key not in written])
        paths.delete_keys(workspace, [key for key in old if key in written])
    return _urls(workspace, old), _urls(workspace, sorted(young))


def _urls(workspace: str, keys: Sequence[str]) -> list[str]:
    return [paths.join(workspace, key) for key in keys]


def _remove_folders(config: RunConfig, folders: Sequence[str]) -> None:
    for folder in folders:
        url = paths.join(config.run.workspace, folder)
        if not _is_current(config, url):  # a run may have gone back to it meanwhile
            paths.delete_tree(url)


def _unnamed(config: RunConfig, written: Written, half: Written) -> Written:
    """Return folders and keys that nothing names, and when each was last written to."""
    workspace = config.run.workspace
    made = {folder.url for folder in run_folders(config)}
    named = [_place(text) for text in config.texts() if text]  # as models of other run files
    found = _unplanned(workspace, written)
    for folder, inside in _by_folder(written).items():
        url = paths.join(workspace, folder)
        if folder and not (
            url in made or _is_current(config, url) or _holds_any(_place(url), named)
        ):
            found[folder] = max(inside.values())
            continue
        found |= {key: when for key, when in inside.items() if key in half and key not in found}
        found |= _orphans(workspace, folder, inside) if folder else {}
    return found


def _is_current(config: RunConfig, url: str) -> bool:
    """Whether current.json beside `url` names that very folder."""
    root = config.run.workspace.partition("?")[0].rstrip("/") + "/"
    stage, _, name = url.partition("?")[0].removeprefix(root).rpartition("/")
    record = current(config.run.workspace, stage)
    return record is not None and record["digest"] == name


def _by_folder(written: Written) -> dict[str, Written]:
    """Return keys by the folder ``<stage>/<digest>`` they lie in; "": in none, as a plan's lists.

    Examples
    --------
    >>> _by_folder({"run.json": 1.0, "raw/0123456789abcdef/parts/1.txt": 2.0})
    {'': {'run.json': 1.0}, 'raw/0123456789abcdef': {'raw/0123456789abcdef/parts/1.txt': 2.0}}
    """
    found: dict[str, Written] = {}
    for key, when in written.items():
        parts = key.split("/")
        depth = next((i for i, part in enumerate(parts[:-1]) if is_digest(part)), -1)
        folder = "" if parts[0] == "plan" else "/".join(parts[: depth + 1])
        found.setdefault(folder, {})[key] = when
    return found


def _unplanned(workspace: str, written: Written) -> Written:
    """Return lists of inputs that no segment of a plan names; each is as old as its attempt."""
    attempts: dict[tuple[str, str], Written] = {}
    for key, when in written.items():
        match key.split("/"):
            case ["plan", digest, "inputs", attempt, _]:
                attempts.setdefault((digest, attempt), {})[key] = when
    for digest in {digest for digest, _ in attempts}:
        segments = paths.join(workspace, "plan", digest, "segments")
        for key in paths.list_keys(segments):
            attempt = str(read_json(paths.join(segments, key)).get("attempt"))
            attempts.pop((digest, attempt), None)
    return {key: max(lists.values()) for lists in attempts.values() for key in lists}


def _orphans(workspace: str, folder: str, written: Written) -> Written:
    """Return a folder's parts that no commit names."""
    parts = {
        key: when
        for key, when in written.items()
        if key.removeprefix(f"{folder}/").startswith(("parts/", "index/"))
    }
    if not parts:
        return {}
    commits = Ledger(paths.join(workspace, folder)).commits()
    named = {f"{folder}/{key}" for result in commits.values() for key in result.objects}
    return {key: when for key, when in parts.items() if key not in named}


def _place(url: str) -> str:
    """Return a URL without options, or a path without links: how two names of a place compare."""
    if "://" in url:
        return url.partition("?")[0].rstrip("/")
    return os.path.realpath(url.removeprefix("@"))


def _holds_any(folder: str, places: Sequence[str]) -> bool:
    return any(place == folder or place.startswith(folder + "/") for place in places)
