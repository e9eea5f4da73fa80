"""How often a trial is tried again, and who trains together after an interruption. It knows no Ray."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diffcps.runs.folder import RunFolder
from diffcps.storage.location import Location
from diffcps.training import watchdog

CRASHES = 5
"""Crashes in a row after which a trial fails; its machine still runs, so the cause is the trial."""
INTERRUPTIONS = 20
"""External interruptions in a row, its machine or its driver gone, after which a trial fails. Pre-emption may strike several
times before a checkpoint, but a trial that takes its machine down, perhaps by its memory, must end too."""
_KEPT = 20
"""Interruptions that ``attempts.json`` describes one by one, the newest."""


class Cause(NamedTuple):
    """What interrupted trials that train together."""

    external: bool
    """Whether their machine or their driver was lost, and the worker only with it."""
    text: str
    details: str = ""
    """The stacks that a watchdog left; else empty."""


class Retries:
    """Retry a trial as long as new checkpoints appear; fail it after too many interruptions in a row without one.

    That is ``CRASHES`` of its own or ``INTERRUPTIONS`` from outside. The record is ``attempts.json`` in the run folder. This
    object lives in the driver of a group of trials. When a newer driver of the same group begins, because this one was thought
    dead, the records are the newer driver's.

    The trials of a group train together, and after an interruption from outside they do again. When their worker crashes,
    nobody knows whose fault it is. Then those that are left train one after the other, each alone.

    Args:
        location: where the trials' records are, as this machine sees them.
        keys: of the trials of the group.
        launch: which start of the sweep this is; each start counts from zero.
    """

    def __init__(self, location: Location, keys: Sequence[str], launch: str) -> None:
        self.location, self.keys, self.launch = location, tuple(keys), launch
        self.name = self.keys[0]
        self.driver = secrets.token_hex(4)
        self._training: tuple[str, ...] = ()
        self._before: dict[str, float | None] = {}
        """When the newest status of each trial was written before this driver began: a failure of then says nothing."""
        self._next: tuple[str, ...] = ()
        """Those that train together after these."""

    def begin(self) -> None:
        """Choose what this driver trains: trials that have not ended, and of which not too many drivers died before it."""
        left = [key for key in self.keys if not self._folder(key).done]
        self._training = tuple(key for key in left if self._begin(key))

    def _begin(self, key: str) -> bool:
        """Take over the record of a trial. Whether to train it."""
        folder = self._folder(key)
        folder.path.mkdir(parents=True, exist_ok=True)
        record, self._before[key] = folder.attempts, folder.status.get("updated")
        again = record.get("launch") == self.launch
        fresh = {"launch": self.launch, "step": _saved(folder.status), "crashes": 0, "external": 0, "alone": False}
        base = {"interruptions": 0, "newest": []} | record | ({} if again else fresh) | {"driver": self.driver}
        folder.record_attempts(base)
        return not again or self._retry(key, self._known(Cause(True, "its driver died"), [key]))

    def groups(self) -> Iterator[tuple[str, ...]]:
        """The keys of those that train together, then of each that has to train alone by then; after ``begin``."""
        group = self._training
        self._next = tuple(key for key in group if not self._folder(key).attempts["alone"])
        while self._next:
            self._training, self._next = self._next, ()
            yield self._training
        for key in group:
            if self._folder(key).attempts["alone"] and self._is_own(key) and not self._folder(key).done:
                self._training = (key,)
                yield (key,)

    def again(self, cause: Cause) -> bool:
        """Count an interruption. Whether those that were training continue as they are; if not, ``groups`` has who is next."""
        for key in self._training:
            self.location.refresh(f"runs/{key}")
        left = [key for key in self._training if not self._folder(key).done and not self._mistaken(key)]
        if not left or not all(map(self._is_own, left)):
            return False
        cause = self._known(cause, self._training)
        again = [key for key in left if self._retry(key, cause)]
        if again == left and (cause.external or len(left) == 1):
            return True
        if cause.external:
            self._next = tuple(again)
            return False
        for key in again:
            self._set_apart(key)
        return False

    def _folder(self, key: str) -> RunFolder:
        return self.location.run_folder(key)

    def _mistaken(self, key: str) -> bool:
        """Whether a trial has failed here by a person's mistake: another attempt would end the same way."""
        status = self._folder(key).status
        return status["state"] == "failed" and not status.get("details") and status.get("updated") != self._before[key]

    def _is_own(self, key: str) -> bool:
        """Whether a trial is still this driver's."""
        return bool(self._folder(key).attempts["driver"] == self.driver)

    def _set_apart(self, key: str) -> None:
        """From now on a trial trains alone, and it waits for that."""
        folder = self._folder(key)
        folder.record_attempts({**folder.attempts, "alone": True})
        if folder.status["state"] == "running":
            folder.claim()  # a worker that only hung must not come back and go on
            folder.change_state("pending")

    def _known(self, cause: Cause, keys: Sequence[str]) -> Cause:
        """The cause, or what a watchdog has left in the folder of one of the trials, which may have ended before."""
        stacks = next((found for key in keys if (found := self._folder(key).stuck)), "")
        for folder in map(self._folder, keys):
            if folder.done:
                folder.trace.unlink(missing_ok=True)
        return Cause(False, watchdog.reason(stacks), stacks) if stacks else cause

    def _retry(self, key: str, cause: Cause) -> bool:
        """Count an interruption of a trial. Whether to try it again; if not, its status says why."""
        folder = self._folder(key)
        record, status = folder.attempts, folder.status
        step = _saved(status)
        if step != record["step"]:
            record |= {"step": step, "crashes": 0, "external": 0}
        kind, limit = ("external", INTERRUPTIONS) if cause.external else ("crashes", CRASHES)
        record[kind] += 1
        record["interruptions"] += 1
        event = {"time": time.time(), "step": status["step"], "external": cause.external, "cause": cause.text}
        record["newest"] = [*record["newest"], event][-_KEPT:]
        folder.record_attempts(record)
        if record[kind] < limit:
            return True
        # the worker's own words about its end are closer to the truth than Ray's
        failed = status["state"] == "failed"
        said, details = (status.get("error", ""), status.get("details", "")) if failed else (cause.text, cause.details)
        where = f"its next checkpoint (the last is of step {step:,})" if step else "its first checkpoint"
        what = "it was interrupted" if cause.external else "its worker died"
        folder.claim()  # a worker that only hung must not come back and report that it is running
        folder.fail(f"{what} {limit} times in a row before {where}: {said}", str(details))
        return False


def _saved(status: Mapping[str, Any]) -> int:
    """The step of the newest checkpoint."""
    return int(status.get("saved", 0))
