"""Upload of a folder to a model repository on the hub, in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import CheckpointError
from coat_core.export.hub_errors import explained, hub_error, no_access, no_token, offline

_KEPT = ".gitattributes"
"""The hub's own list of the file names that are stored as large files."""
_MADE_BY_HUB = frozenset({_KEPT, "README.md"})
_PREFIXES = {"datasets": "dataset", "spaces": "space", "kernels": "kernel", "buckets": "bucket"}


@dataclass(frozen=True)
class Repository:
    """A model repository as it was before the upload.

    Attributes:
        id: `owner/name`.
        public: whether it is, or is to be, public.
        commit: its newest commit; None: it does not exist yet.
        files: names of its files.
    """

    id: str
    public: bool
    commit: str | None = None
    files: tuple[str, ...] = ()


def find_repository(repository: str, record: str, *, public: bool) -> Repository:
    """Check everything about a repository that can be checked before the export is made; nothing is created or changed.

    Args:
        repository: `owner/name`.
        record: name of the file that marks a repository as an earlier export.
        public: whether the repository is to be public.

    Raises:
        CheckpointError: the id has another form or names a data set or a space; there is no token, or it may not write; the repository
            holds something else; its visibility is not the requested one; this host is set to work offline.
        HubUnreachableError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    _check_id(repository)
    if constants.HF_HUB_OFFLINE:
        raise offline(repository)
    api = HfApi()
    with explained(repository):
        if get_token() is None:
            raise no_token(repository)
        try:
            info = api.model_info(repository)
        except RepositoryNotFoundError:
            _check_new(api, repository)
            return Repository(repository, public)
        api.auth_check(repository, write=True)
    found = Repository(repository, not info.private, info.sha, tuple(file.rfilename for file in info.siblings or ()))
    if found.public != public:
        have, want = ("public", "private") if found.public else ("private", "public")
        step = "use --public" if found.public else "leave out --public"
        raise hub_error(
            f"the repository is {have}", repository, f"{step}, or make it {want} on its settings page", allowed=f"a {want} repository"
        )
    if record not in found.files and not {*found.files} <= _MADE_BY_HUB:
        other = sorted({*found.files} - _MADE_BY_HUB)[0]
        raise hub_error(
            f"the repository holds something that is not an earlier export: {other}", repository, "choose another repository",
            allowed="a new or empty repository, or an earlier export",
        )  # fmt: skip
    return found


def upload_folder(repository: Repository, folder: Path, message: str) -> str:
    """Upload all files of a folder in one commit, which also removes the files of an earlier export; return the commit's address.

    The files are sent first. They belong to no revision until the commit, so an interrupted upload leaves the repository as it was, or
    empty if it is new. `HfApi.upload_folder` is not used: it makes several commits of a large folder.

    Args:
        repository: see `find_repository`; created if it does not exist.
        folder: its files become those of the repository, by their relative paths.
        message: title of the commit.

    Raises:
        CheckpointError: the hub refused a request, or the repository was changed since it was looked at.
        HubUnreachableError: the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with explained(repository.id):
        parent, present = repository.commit, repository.files
        if parent is None:
            api.create_repo(repository.id, private=not repository.public)
            info = api.model_info(repository.id)
            parent, present = info.sha, tuple(file.rfilename for file in info.siblings or ())
        operations: list[Any] = [CommitOperationDelete(name) for name in present if name not in files and name != _KEPT]
        operations += [CommitOperationAdd(name, path) for name, path in files.items()]
        return str(api.create_commit(repository.id, operations, commit_message=message, parent_commit=parent).commit_url)


def _check_id(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    prefix = repository.partition("/")[0]
    if repository.count("/") == 2 and prefix in _PREFIXES:
        raise _other_type(repository, _PREFIXES[prefix], "name a model repository")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = str(error).partition(":")[0].lower()
    else:
        reason = "" if repository.count("/") == 1 else "the owner is missing"
    if reason:
        raise hub_error(f"not the id of a repository on the hub ({reason})", repository, "correct the id", allowed="OWNER/NAME")


def _check_new(api: Any, repository: str) -> None:
    """Check that a repository that does not exist can be created by this account, and is not meant to be one of another type."""
    account = api.whoami()
    owners = {account["name"], *(entry["name"] for entry in account.get("orgs") or ())}
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if repository.partition("/")[0] not in owners or role == "read":
        raise no_access(repository)
    for kind in ("dataset", "space"):
        if api.repo_exists(repository, repo_type=kind):
            step = f"choose another id; to have a model of this name too, create it first: hf repos create {repository}"
            raise _other_type(repository, kind, step)


def _other_type(repository: str, kind: str, next_step: str) -> CheckpointError:
    return hub_error(f"this is a {kind}, not a model repository", repository, next_step, allowed="OWNER/NAME of a model")
