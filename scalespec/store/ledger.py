"""Which blocks are done: commit records, failures and the folder of one stage under its digest.

``<workspace>/<stage>/<digest>/`` holds what the stage made; ``commits/000042.json`` in it says that
block 42 is whole and what it holds, ``failed/000042.json`` why it is not; ``<workspace>/<stage>/
current.json`` names the digest in use. A commit is written once, create-only, after the data, so a
kill at any moment leaves a block that is either committed or done again.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scalespec.errors import StoreError
from scalespec.plan import Block, BlockResult
from scalespec.store import paths
from scalespec.store.together import each

RECORD = re.compile(r"\d{6,}\.json")


def new_attempt() -> str:
    """Return a name for one try at one block, unlike any other."""
    return secrets.token_hex(8)


def read_json(url: str) -> dict[str, Any]:
    """Return the JSON object at `url`.

    Raises
    ------
    StoreError
        If it is missing or not a JSON object.
    """
    return _parsed(url, paths.read_bytes(url))


def find_json(url: str) -> dict[str, Any] | None:
    """Return the JSON object at `url`, or None if nothing is there.

    To ask first whether it exists would be a second request, and a moment in which it may go.

    Raises
    ------
    StoreError
        If it is not a JSON object, or cannot be read.

    Examples
    --------
    >>> find_json("/nowhere/current.json") is None
    True
    """
    data = paths.find_bytes(url)
    return None if data is None else _parsed(url, data)


def _parsed(url: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreError(f"{url}: damaged JSON ({error}); delete it and run again") from error
    if not isinstance(value, dict):
        raise StoreError(f"{url}: wanted a JSON object, found {type(value).__name__}")
    return value


def write_json(url: str, value: Mapping[str, Any], *, create: bool = False) -> bool:
    """Write `value` as JSON with sorted keys; see `paths.write_bytes` for `create`."""
    text = json.dumps(value, indent=1, sort_keys=True)
    return paths.write_bytes(url, text.encode(), create=create)


def record_url(folder: str, index: int) -> str:
    """Return where the commit of a block of a stage's folder is recorded."""
    return paths.join(folder, "commits", f"{index:06d}.json")


@dataclass(frozen=True)
class Ledger:
    """The record of one stage under one digest.

    Attributes
    ----------
    url : str
        The stage's folder, ``<workspace>/<stage>/<digest>``.
    """

    url: str

    def _commit_url(self, block: Block) -> str:
        return record_url(self.url, block.index)

    def _records(self, kind: str) -> dict[int, str]:
        """Return the URLs of the records of one kind by block index; other names are not ours."""
        folder = paths.join(self.url, kind)
        return {
            int(key.removesuffix(".json")): paths.join(folder, key)
            for key in paths.list_keys(folder)
            if RECORD.fullmatch(key)
        }

    def plan(self, blocks: Sequence[Block]) -> None:
        """Keep which blocks the stage has, for those who ask what is left of it."""
        record = {"blocks": [[b.index, b.start, b.stop] for b in blocks]}
        write_json(paths.join(self.url, "planned.json"), record)

    def planned(self) -> list[tuple[int, int, int]] | None:
        """Return index, start and stop of each block the stage has; None if it never ran.

        Raises
        ------
        StoreError
            If that record is damaged.
        """
        url = paths.join(self.url, "planned.json")
        record = find_json(url)
        try:
            return (
                None
                if record is None
                else [(int(i), int(a), int(b)) for i, a, b in record["blocks"]]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{url}: no blocks of ours ({error!r}); run the stage again"
            ) from error

    def committed(self, block: Block) -> BlockResult | None:
        """Return what was stored for `block`, or None if it is not committed.

        Raises
        ------
        StoreError
            If its record is damaged.
        """
        url = self._commit_url(block)
        record = find_json(url)
        return None if record is None else _as_result(url, record)

    def commits(self) -> dict[int, BlockResult]:
        """Return every committed block's result by block index.

        Raises
        ------
        StoreError
            If a record is damaged.
        """
        found = self._records("commits")
        records = each(read_json, found.values())
        return {
            index: _as_result(url, record)
            for (index, url), record in zip(found.items(), records, strict=True)
        }

    def done(self) -> set[int]:
        """Return the indices of the committed blocks: a listing, no record is read."""
        return set(self._records("commits"))

    def commit(self, block: Block, result: BlockResult) -> BlockResult:
        """Make `result` the block's record; if another attempt was first, its record stands.

        Returns
        -------
        BlockResult
            The record that stands. A create that is refused may be our own earlier success whose
            answer was lost, so the record is read back rather than believed lost.

        Raises
        ------
        StoreError
            If another attempt was first and made something else, as of a file that changed between
            the two. What both wrote under one name, shards, is now of the one or of the other: the
            record is withdrawn, and who tries again writes and commits the block as a whole.
        """
        record = asdict(result) | {"start": block.start, "stop": block.stop}
        if write_json(self._commit_url(block), record, create=True):
            return result
        standing = self.committed(block)
        if standing is None:
            raise StoreError(f"{self._commit_url(block)}: exists, yet cannot be read")
        if _shared(standing) != _shared(result):
            self.withdraw(block.index)
            raise StoreError(
                f"{self._commit_url(block)}: withdrawn: another attempt committed other content "
                "while this one wrote over it; the block is to be done again"
            )
        return standing

    def withdraw(self, index: int) -> None:
        """Forget that a block was committed: the next run makes it anew."""
        paths.delete(record_url(self.url, index))

    def record_failure(self, block: Block, error: str) -> None:
        """Keep why `block` failed after all retries."""
        url = paths.join(self.url, "failed", f"{block.index:06d}.json")
        write_json(url, {"start": block.start, "stop": block.stop, "error": error})

    def failures(self) -> dict[int, str]:
        """Return why blocks failed, by block index; a block committed since is not among them."""
        failed = self._records("failed")
        done = self.done() if failed else set()
        left = [index for index in failed if index not in done]
        records = each(read_json, (failed[index] for index in left))
        return {i: str(record.get("error", "")) for i, record in zip(left, records, strict=True)}


def _shared(result: BlockResult) -> dict[str, str]:
    """Return the objects whose names are the same of every attempt."""
    own = result.attempt  # "" of stages whose attempts have no names
    return {key: sha for key, sha in result.objects.items() if not own or own not in key}


def _as_result(url: str, record: Mapping[str, Any]) -> BlockResult:
    try:
        objects = {paths.below(key): str(value) for key, value in record["objects"].items()}
        counts = dict(record["counts"])
        return BlockResult(int(record["rows"]), objects, counts, str(record["attempt"]))
    except (KeyError, TypeError, ValueError, AttributeError, StoreError) as error:
        raise StoreError(
            f"{url}: no commit record of ours ({error!r}); delete it to do the block again"
        ) from error


def stage_url(workspace: str, stage: str, digest: str) -> str:
    """Return the folder of a stage under a digest."""
    return paths.join(workspace, stage, digest)


def set_current(workspace: str, folder: str, digest: str, **facts: Any) -> None:
    """Name the digest in use of a stage's folder, with facts that status and verify need."""
    url = paths.join(workspace, folder, "current.json")
    record = {"digest": digest, **facts}
    if find_json(url) != record:
        write_json(url, record)


def current(workspace: str, folder: str) -> dict[str, Any] | None:
    """Return the record of a folder's digest in use, or None if its stage never ran.

    Raises
    ------
    StoreError
        If it is damaged, or the digest it names leads out of the folder.
    """
    url = paths.join(workspace, folder, "current.json")
    record = find_json(url)
    if record is not None:
        paths.below(str(record.get("digest", "none")))
    return record


def is_digest(name: str) -> bool:
    """Whether a folder is named by what it depends on.

    Examples
    --------
    >>> is_digest("0123456789abcdef"), is_digest("visits")
    (True, False)
    """
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def note_step(workspace: str, place: str) -> None:
    """Keep in a stage's folder that a step of its own stores below it, for `own_steps`.

    Parameters
    ----------
    workspace : str
    place : str
        The step's folder below the workspace, ``<stage>/<digest>/<step>``; of a stage itself,
        ``<stage>/<digest>``, nothing is kept.
    """
    parts = place.split("/")
    depth = next((i for i, part in enumerate(parts, 1) if is_digest(part)), len(parts))
    if inside := parts[depth:]:
        url = paths.join(workspace, *parts[:depth], "steps.json")
        name = " ".join(part for part in inside if not is_digest(part))
        before = find_json(url) or {}
        if before.get(name) != "/".join(inside):
            write_json(url, {**before, name: "/".join(inside)})


def own_steps(folder: str) -> dict[str, str]:
    """Return the folders of a stage's own steps by their names; of several runs, the last one's.

    Raises
    ------
    StoreError
        If their record is damaged, or leads out of the folder.
    """
    record = find_json(paths.join(folder, "steps.json")) or {}
    return {name: paths.join(folder, paths.below(str(place))) for name, place in record.items()}
