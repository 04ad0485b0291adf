"""A shared store in a repository of the Hugging Face hub, through its own client.

The endpoint is $HF_ENDPOINT, else the public hub; the token is what `hf auth login` or $HF_TOKEN gave. A push is one
commit on top of the commit whose index was read. A repository that does not exist is made, public unless the account
says otherwise; make it beforehand to keep it private.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from factorlm.errors import FactorlmError, FetchError, InputError
from factorlm.factors.remotes.index import INDEX
from factorlm.factors.remotes.place import (
    MAX_INDEX_BYTES,
    MAX_TRIES,
    Plan,
    Publication,
    check_size,
    copy_limited,
    insecurity,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT = 30.0  # seconds
ADDRESS = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?/?", re.ASCII)


@dataclass
class HubPlace:
    """A repository, at a branch, tag or commit; everything is read from the commit that this was at the first look."""

    repository: str
    revision: str = "main"

    @classmethod
    def at(cls, address: str) -> HubPlace:
        """From hf://owner/repository or hf://owner/repository@revision.

        Raises:
            InputError: if it is not of that form.
        """
        found = ADDRESS.fullmatch(address)
        if found is None or ".." in address:
            raise InputError(f"a hub store is hf://owner/repository or hf://owner/repository@revision, got {address!r}")
        return cls(found[1], found[2] or "main")

    @property
    def address(self) -> str:
        """As it is written."""
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision != "main" else "")

    @property
    def warning(self) -> str:
        """That the endpoint is not encrypted, if it is not."""
        return insecurity(self._api.endpoint)

    def get(self, path: str, into: BinaryIO, limit: int) -> bool:
        """As every place does; the size is asked for before anything is fetched."""
        from huggingface_hub.errors import RemoteEntryNotFoundError

        commit, what = self._commit, f"{path} in {self.address}"
        if commit is None:
            return False
        with tempfile.TemporaryDirectory() as folder, self._translated():
            try:
                seen = self._api.hf_hub_download(
                    self.repository, path, revision=commit, cache_dir=folder, dry_run=True, etag_timeout=TIMEOUT
                )
                if seen.file_size is None:
                    raise FetchError(f"{what} has no announced size; check that {self._api.endpoint} is a hub")
                check_size(seen.file_size, limit, what)
                came = self._api.hf_hub_download(
                    self.repository, path, revision=commit, cache_dir=folder, etag_timeout=TIMEOUT
                )
            except RemoteEntryNotFoundError:
                return False
            with Path(came).open("rb") as file:
                copy_limited(file.read, into, limit, what)
        return True

    def names(self, folder: str) -> list[str] | None:
        """As every place does."""
        from huggingface_hub.errors import EntryNotFoundError

        if self._commit is None:
            return []
        with self._translated():
            try:
                found = list(self._api.list_repo_tree(self.repository, folder, revision=self._commit))
            except EntryNotFoundError:
                return []
        return sorted(item.path.rpartition("/")[2] for item in found)

    def publish(self, plan: Plan) -> None:
        """As every place does: one commit, refused by the hub if there was another since the index was read."""
        from huggingface_hub.errors import HfHubHTTPError

        for _ in range(MAX_TRIES):
            self.__dict__.pop("_commit", None)
            if self._commit is None:
                with self._translated():
                    self._api.create_repo(self.repository, exist_ok=True)
                self.__dict__.pop("_commit", None)
            index = BytesIO()
            publication = plan(index.getvalue() if self.get(INDEX, index, MAX_INDEX_BYTES) else None)
            if publication is None:
                return
            with self._translated():
                try:
                    self._send(publication)
                except HfHubHTTPError as error:
                    if error.response.status_code not in (409, 412):
                        raise
                    continue
            self.__dict__.pop("_commit", None)
            return
        raise FetchError(f"{self.address} was changed by others {MAX_TRIES} times during this push; push again")

    def _send(self, publication: Publication) -> None:
        from huggingface_hub import CommitOperationAdd

        contents = {f"{folder}/{n}": c for folder, files in publication.folders.items() for n, c in files.items()}
        additions = [CommitOperationAdd(path, content) for path, content in contents.items()]
        additions.append(CommitOperationAdd(INDEX, publication.index))
        self._api.create_commit(
            self.repository,
            additions,
            commit_message=publication.message,
            revision=self.revision,
            parent_commit=self._commit,
        )

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, constants

        if constants.HF_HUB_OFFLINE:
            raise FetchError(
                f"{self.address} is on the hub, and HF_HUB_OFFLINE is set; unset it, or use a folder or http store"
            )
        return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="factorlm")

    @cached_property
    def _commit(self) -> str | None:
        """The commit that is read; None where there is no such repository, or nothing in it yet."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        with self._translated():
            try:
                info = self._api.model_info(self.repository, revision=self.revision, timeout=TIMEOUT)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
        return info.sha

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the client complains of, in one line."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        # The HTTP library under the client has changed between its versions; its errors come through.
        http_error: type[Exception] = next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
        try:
            with _no_bars():
                yield
        except RuntimeError as error:  # an upload that failed, for the reason beneath it
            raise self._complaint(error.__cause__ or error) from None
        except (http_error, OSError, HFValidationError) as error:
            raise self._complaint(error) from None

    def _complaint(self, error: BaseException) -> FactorlmError:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

        if isinstance(error, RevisionNotFoundError):
            return InputError(
                f"hf://{self.repository} has no branch, tag or commit {self.revision!r}; make it on the hub, or leave "
                "@revision away"
            )
        if isinstance(error, HFValidationError):
            return InputError(f"{self.address} is no name of a repository: {error}; check its spelling")
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status in (401, 403):
                advice = "not allowed; log in with hf auth login, or set HF_TOKEN"
                return InputError(f"{self.address}: the hub answers {status}: {advice}")
            said = error.server_message or error.response.reason_phrase
            return FetchError(f"{self.address}: the hub answers {status} ({said}); try again later")
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return FetchError(f"{self.address} cannot be reached: {said}; check the network and HF_ENDPOINT")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Silence the client's progress bars for a while, and leave them as they were."""
    from huggingface_hub import utils as client  # whose __init__ does not declare these

    was_silent = client.are_progress_bars_disabled()  # type: ignore[attr-defined]
    client.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if not was_silent:
            client.enable_progress_bars()  # type: ignore[attr-defined]
