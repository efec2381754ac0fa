"""The memory capability: saves of tmpfs roots, and restores into them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast._engine import Progress
from holdfast.capability import Capability
from holdfast.engine.requests import call
from holdfast.memory.engine_requests import (
    CommitMemory,
    DiscardMemory,
    InspectMemorySave,
    RecoverMemory,
    SaveMemory,
    StageMemory,
)
from holdfast.memory.models import (
    MemoryFigures,
    MemorySave,
    MemoryState,
    NotRestored,
    RestoreRequest,
    RestoreResult,
    SaveRequest,
    SaveResult,
)
from holdfast.memory.roots import MemoryRoots
from holdfast.memory.store import SaveAbout, SaveStore
from holdfast.operations.kinds import Context, Kind
from holdfast.operations.model import OperationFailed, Problem, RequestError, Slug
from holdfast.records.patterns import check_patterns
from holdfast.records.provenance import provenance
from holdfast.storage import space
from holdfast.storage.writers import FindWriters, OpenForWriting, at_rest

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from holdfast.operations.service import Operations

log = logging.getLogger(__name__)

SAVE, RESTORE = "memory.save", "memory.restore"


class MemoryStates(Capability):
    """Saves the files of tmpfs roots to the data volume, and puts them back."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        reserve_bytes: int,
        writers: FindWriters,
    ) -> None:
        """`reserve_bytes` is the memory that a restore leaves available."""
        self._roots = MemoryRoots(roots)
        self._state_dir = state_dir
        self._reserve_bytes = reserve_bytes
        self._writers = writers
        self._store = SaveStore(state_dir / "memory")

    def prepare(self) -> None:
        """Remove what an earlier process left unfinished on the volume."""
        try:
            self._store.prepare()
        except OSError as error:
            log.warning("an unfinished save could not be removed: %s", error)

    def kinds(self) -> tuple[Kind[Any, Any], ...]:
        """List the operations of this capability."""
        return (
            Kind(
                SAVE,
                SaveRequest,
                SaveResult,
                self._save,
                check=self._check_save,
                # Nothing of a save that was cut off counts: it is made again from the beginning.
                resumable=True,
                resources=self._resources,
                # The machine may be going down.
                urgent=True,
            ),
            Kind(
                RESTORE,
                RestoreRequest,
                RestoreResult,
                self._restore,
                check=self._check_restore,
                resumable=True,
                resources=self._resources,
                # A service waits for it.
                urgent=True,
                rate="read",
            ),
        )

    def state(self) -> MemoryState:
        """Return the configured roots and the saves."""
        saves, damaged = self._store.all()
        return MemoryState(roots=self._roots.all(), saves=saves, damaged=damaged)

    def delete(self, save_id: str) -> str:
        """Remove a save; return its id. Raises `RequestError` if there is none, `OSError`."""
        return self._store.delete(save_id)

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what shows roots in memory and their saves."""
        from holdfast.memory.metrics import MemoryCollector  # noqa: PLC0415 - for the daemon alone

        del operations
        return (MemoryCollector(self.figures),)

    def figures(self) -> MemoryFigures:
        """Return what metrics show. Reads nothing of the data volume, which may hang."""
        known = self._store.known
        return [
            (root, used, next((save for save in known if save.root == root), None))
            for root, used in self._roots.figures()
        ]

    def _resources(self, params: SaveRequest | RestoreRequest) -> frozenset[str]:
        """Name what an operation holds: one works on a root at a time."""
        root = params.root or self._roots.only or "*"
        return frozenset({f"memory:{root}"})

    # Saves.

    def _check_save(self, params: SaveRequest) -> None:
        root = self._roots.find(params.root)
        check_patterns(params.include, params.exclude)
        self._check_required(root, params)
        space.check(self._state_dir)
        at_rest(root, self._writers, overrule=params.even_if_open, field="root")

    @staticmethod
    def _check_required(root: Path, params: SaveRequest) -> None:
        for number, name in enumerate(params.requires):
            path = Path(name)
            if "\0" in name or path.is_absolute() or ".." in path.parts:
                raise RequestError(
                    Slug.INVALID_REQUEST,
                    f"{name!r} should be a path relative to {root}, such as `memory_file.meta`.",
                    f"requires.{number}",
                )
            if (root / path).is_symlink() or not (root / path).is_file():
                raise RequestError(
                    Slug.CONFLICT,
                    f"{root / path} is not there, so {root} is not complete and nothing is saved. "
                    "Its service was not stopped cleanly: memcached writes its metadata when it "
                    "is stopped with SIGUSR1.",
                    f"requires.{number}",
                )

    def _save(self, context: Context[SaveRequest]) -> SaveResult:
        params = context.params
        known = self._store.about(context.id)
        if known is not None:
            # It was complete when the daemon ended.
            return _result(known)
        root = self._roots.find(params.root)
        self._check_required(root, params)
        found = at_rest(root, self._writers, overrule=params.even_if_open, field="root")
        self._make_space(root)
        header = provenance(context.id)
        with self._store.new(context.id) as directory:
            outcome = call(
                SaveMemory(
                    root=root,
                    leave_out=[self._state_dir],
                    include=params.include,
                    exclude=params.exclude,
                    directory=directory,
                    header=header,
                    even_if_changed=params.even_if_open,
                    bytes_per_second=params.bytes_per_second,
                ),
                context.progress,
            )
            # A mapping leaves no trace in a file's times: nobody may have opened one meanwhile.
            at_rest(root, self._writers, overrule=params.even_if_open, field="root")
            about = SaveAbout(
                save=context.id,
                root=str(root),
                open_for_writing=[] if found is None else list(found.holders),
                uninspected_processes=0 if found is None else found.uninspected,
                created_at=header["created_at"],  # type: ignore[arg-type]  # parsed by the model
                host=header["host"],
                boot_id=header["boot_id"],
                **outcome,
            )
            self._store.keep(about)
        self._forget_older(root, context.id)
        return _result(about)

    def _make_space(self, root: Path) -> None:
        """Remove used saves of a root if what is in the root does not fit beside them.

        What cannot fit is refused by the engine.
        """
        try:
            space.check(self._state_dir, self._roots.used_bytes(root))
        except OSError:
            for save in self._store.all()[0]:
                if save.root == str(root) and save.used_at is not None:
                    log.info("save %s was used before and is removed for a new one", save.id)
                    self._store.delete(save.id)

    def _forget_older(self, root: Path, newest: str) -> None:
        """Remove older saves of a root: what is in memory of the new one is newer than theirs."""
        for save in self._store.all()[0]:
            if save.root == str(root) and save.id < newest:
                try:
                    self._store.delete(save.id)
                except (OSError, RequestError) as error:
                    log.warning("save %s could not be removed: %s", save.id, error)

    # Restores.

    def _check_restore(self, params: RestoreRequest) -> None:
        root = self._roots.find(params.root)
        if params.before_start:
            return
        save = self._named(params, root)
        if save is None:
            raise RequestError(
                Slug.NOT_FOUND, f"There is no save of {root}; make one first.", "save"
            )
        reason = self._outdated(params, save, None)
        if reason is not None:
            raise RequestError(Slug.CONFLICT, reason[1], "save")

    def _named(self, params: RestoreRequest, root: Path) -> MemorySave | None:
        if params.save == "latest":
            return self._store.latest(str(root))
        return self._store.get(params.save)

    def _outdated(
        self, params: RestoreRequest, save: MemorySave, operation: str | None
    ) -> tuple[NotRestored, str] | None:
        """Return why a save should not be restored, and a sentence on it."""
        if save.used_at is not None and not params.again and save.used_by != operation:
            return "used", (
                f"Save {save.id} was used by operation {save.used_by}, so what its service had "
                "since is newer; to restore it all the same, ask for it `again`."
            )
        age = time.time() - save.created_at.timestamp()
        if params.max_age_seconds is not None and not 0 <= age <= params.max_age_seconds:
            return "too-old", (
                f"Save {save.id} is {age:.0f} seconds old, and `max_age_seconds` is "
                f"{params.max_age_seconds}."
            )
        return None

    def _restore(self, context: Context[RestoreRequest]) -> RestoreResult:
        params = context.params
        root = self._roots.find(params.root)
        save = self._named(params, root)
        if save is None:
            if not params.before_start:
                self._check_restore(params)
            return RestoreResult(save=None, root=str(root), restored=False, reason="no-save")
        with self._using(context, save):
            done = self._settle(context, root, save)
            if done is not None:
                return done
            outdated = self._outdated(params, save, context.id)
            if outdated is not None:
                if not params.before_start:
                    raise RequestError(Slug.CONFLICT, outdated[1], "save")
                return _left(save, root, outdated[0])
            return self._put_back(context, root, save)

    def _settle(
        self, context: Context[RestoreRequest], root: Path, save: MemorySave
    ) -> RestoreResult | None:
        """Complete or discard a restore that was cut off; return its result if it was this one."""
        at_rest(root, self._writers, overrule=context.params.even_if_open, field="root")
        done = call(RecoverMemory(root=root), context.progress)["done"]
        if not context.resumed or done == "discarded":
            return None
        used = self._store.used(save.id)
        return used.result if used is not None and used.operation == context.id else None

    @contextmanager
    def _using(self, context: Context[RestoreRequest], save: MemorySave) -> Iterator[None]:
        """Note that a save is used, however a restore before a start ends."""
        try:
            yield
        except BaseException:
            if context.params.before_start and not context.will_resume():
                self._note_used(save, context.id)
            raise

    def _note_used(self, save: MemorySave, operation: str) -> None:
        """Note that a service starts without a save, unless that is known."""
        try:
            if self._store.used(save.id) is None:
                self._store.mark(save.id, operation)
        except OSError as error:
            log.error("save %s could not be marked as used: %s", save.id, error)

    def _put_back(
        self, context: Context[RestoreRequest], root: Path, save: MemorySave
    ) -> RestoreResult:
        params = context.params
        directory = self._store.path(save.id)
        found = call(InspectMemorySave(root=root, save=directory), context.progress)
        if params.before_start and (found["present"] or found["foreign"]):
            self._store.mark(save.id, context.id)
            return _left(save, root, "files-present")
        _check_names(root, params, found)
        self._check_memory(root, found)
        outcome = call(
            StageMemory(
                root=root,
                save=directory,
                replace=params.existing == "replace",
                bytes_per_second=params.bytes_per_second,
            ),
            context.progress,
        )
        try:
            holders = at_rest(root, self._writers, overrule=params.even_if_open, field="root")
            result = _restored(save, root, outcome, holders)
            # Before the first rename: what is in place may be used by a service at once.
            self._store.mark(save.id, context.id, result)
        except BaseException:
            self._discard(root)
            raise
        context.progress.enter("placing")
        try:
            call(CommitMemory(root=root), context.progress)
        except (OSError, ValueError):
            # The root is as it was, so the save can be restored once more.
            self._store.unmark(save.id, before=save)
            raise
        return result

    def _discard(self, root: Path) -> None:
        try:
            call(DiscardMemory(root=root), Progress())
        except (OSError, ValueError) as error:
            log.warning("what a restore left in %s could not be removed: %s", root, error)

    def _check_memory(self, root: Path, found: dict[str, Any]) -> None:
        """Raise `OperationFailed` if a save does not fit into its tmpfs, or into memory."""
        needed, inodes = found["needed_bytes"], found["free_files"]
        if needed > found["free_bytes"]:
            shortage = (
                f"The save takes {needed} bytes, and the tmpfs on {root} has {found['free_bytes']} "
                "bytes free; make it larger (`mount -o remount,size=…`)."
            )
        elif inodes is not None and found["needed_files"] > inodes:
            shortage = (
                f"The save has {found['needed_files']} files and directories, and the tmpfs on "
                f"{root} has {inodes} inodes free; make it larger (`mount -o remount,nr_inodes=…`)."
            )
        elif needed > max(0, found["memory_bytes"] - self._reserve_bytes):
            shortage = (
                f"The save takes {needed} bytes, and {found['memory_bytes']} bytes of memory are "
                f"available (limited by {found['memory_limit']}), of which "
                f"{self._reserve_bytes} stay free (`pagecache.reserve_bytes`)."
            )
        else:
            return
        raise OperationFailed(Problem.of(Slug.INSUFFICIENT_MEMORY, shortage))


def _check_names(root: Path, params: RestoreRequest, found: dict[str, Any]) -> None:
    """Raise `RequestError` if something is in the way of a restore."""
    if found["foreign"]:
        raise RequestError(
            Slug.CONFLICT,
            f"{root}/{found['foreign'][0]['path']} is something else than in the save; move it "
            "away.",
            "existing",
        )
    if found["present"] and params.existing != "replace":
        raise RequestError(
            Slug.CONFLICT,
            f"{root}/{found['present'][0]['path']} is there already; move it away, or ask to "
            "`replace` what exists.",
            "existing",
        )


def _result(about: SaveAbout) -> SaveResult:
    return SaveResult.model_validate(about.model_dump(include=set(SaveResult.model_fields)))


def _left(save: MemorySave, root: Path, reason: NotRestored) -> RestoreResult:
    return RestoreResult(save=save.id, root=str(root), restored=False, reason=reason)


def _restored(
    save: MemorySave, root: Path, outcome: dict[str, Any], holders: OpenForWriting | None
) -> RestoreResult:
    return RestoreResult(
        save=save.id,
        root=str(root),
        restored=True,
        open_for_writing=[] if holders is None else list(holders.holders),
        uninspected_processes=0 if holders is None else holders.uninspected,
        **outcome,
    )
