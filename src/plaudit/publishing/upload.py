"""Upload the models of a run, or write what would be uploaded into a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from plaudit.config import ALGORITHMS, POLICIES
from plaudit.errors import HubError, RunError
from plaudit.evaluation.evaluate import policy_stage
from plaudit.models.ensemble import member_folders
from plaudit.models.lora import FOLDER as ADAPTER
from plaudit.publishing.card import base_of, card
from plaudit.training.run import Run

_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt", ".csv"}
_KEPT_BACK = {"inputs.json", "manifest.json", "tracking.json"}  # they are about this run directory
_TOKENS = "https://huggingface.co/settings/tokens"

Files = dict[str, Path | bytes]  # by path in a repository


def push(
    directory: str | Path,
    repo: str,
    *,
    private: bool = False,
    token: str = "",
    only: Sequence[str] = (),
    dry_run: str | Path | None = None,
) -> list[str]:
    """Upload the finished models of a run, each with a model card: the policy to `repo`, others to `repo`-STAGE.

    Texts of the data, rollouts and checkpoints are not uploaded.

    Args:
        directory: of the run.
        repo: OWNER/NAME on the hub; repositories that do not exist are made.
        private: make private repositories.
        token: with write access; "" for HF_TOKEN or the token that `hf auth login` has saved.
        only: stages whose models are uploaded, such as ("ppo",); () for all that have finished.
        dry_run: a folder to write to, instead of uploading: a folder for each repository.

    Returns:
        the address of each repository, or its folder.

    Raises:
        RunError: a stage has not finished, or a file has changed since.
        HubError: there is no token, the hub refuses it or the name, or it cannot be reached.
    """
    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise HubError(f"'{repo}': not a repository's name ({error}); give OWNER/NAME, as in me/film-gpt2") from None
    run = Run.existing(Path(directory))
    repos = _repositories(run, repo)
    wanted = [stage.strip().replace("-", "_") for stage in only] or list(repos)
    for stage in wanted:
        if stage not in ALGORITHMS:
            raise RunError(f"only = '{stage}': no such stage; the stages are {', '.join(ALGORITHMS)}")
        run.model(stage)
    contents = {repos[stage]: _files(run, stage, {s: r for s, r in repos.items() if s in wanted}) for stage in wanted}
    if dry_run is not None:
        return [_write(Path(dry_run) / name.rpartition("/")[2], files) for name, files in contents.items()]
    return _upload(contents, token or get_token() or "", private)


def _repositories(run: Run, repo: str) -> dict[str, str]:
    """The repository of each finished stage: the policy that the run is about has the plain name."""
    done = [stage for stage in ALGORITHMS if run.complete(stage)]
    if not done:
        raise RunError(f"{run.path}: no finished model here; run: plaudit run --out {run.path}")
    main = policy_stage(run) if set(done) & set(POLICIES) else ""
    return {stage: repo if stage == main else f"{repo}-{stage.replace('_', '-')}" for stage in done}


def _files(run: Run, stage: str, repos: dict[str, str]) -> Files:
    """The files of a stage's repository."""
    folder = run.folder(stage)
    files: Files = {
        path.relative_to(folder).as_posix(): path
        for model in member_folders(folder)  # of an ensemble; of another stage its folder alone
        for path in sorted(model.iterdir())
        if path.is_file() and path.suffix in _SUFFIXES and path.name not in _KEPT_BACK
    }
    base = repos.get("sft", "") if stage != "sft" else base_of(run.config.model)[0]
    for adapter in (model / ADAPTER for model in member_folders(folder)):
        if adapter.is_dir() and base:  # without its base model an adapter is of no use
            place = adapter.relative_to(folder).as_posix()
            settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
            text = json.dumps(settings | {"base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n"
            files |= {f"{place}/{path.name}": path for path in sorted(adapter.iterdir())}
            files[f"{place}/adapter_config.json"] = text.encode()
    return files | {"README.md": card(run, stage, repos).encode()}


def _write(folder: Path, files: Files) -> str:
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: is not empty; choose another folder for --dry-run, or remove it")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            shutil.copyfile(content, path)
    return str(folder)


def _upload(contents: dict[str, Files], token: str, private: bool) -> list[str]:
    if not token:
        raise HubError(f"no token for the hub: set HF_TOKEN to one with write access ({_TOKENS}), or give --token")
    api, links = HfApi(token=token), []
    at = ""
    try:
        for at in contents:  # all of them first, so that a refusal leaves nothing half done
            api.create_repo(at, private=private, exist_ok=True)
            if private and not api.model_info(at).private:
                raise HubError(f"{at}: exists and is public; choose another name, or make it private on the hub first")
        for at, files in contents.items():
            operations = [CommitOperationAdd(name, _source(content)) for name, content in files.items()]
            api.create_commit(at, operations, commit_message="Upload by plaudit")
            links.append(f"{api.endpoint}/{at}")
    except HubError:
        raise
    except Exception as error:  # of any class: the hub's answer, network, disk
        raise HubError(_refusal(at, error)) from error
    return links


def _source(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)


def _refusal(repo: str, error: Exception) -> str:
    """Why an upload failed, and what to do."""
    cause: BaseException = error
    while not isinstance(cause, HfHubHTTPError) and (deeper := cause.__cause__):
        cause = deeper
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
    owner = repo.partition("/")[0]
    if status == 401:
        return (
            f"{repo}: the hub does not accept the token (401): make one with write access ({_TOKENS}), and set HF_TOKEN"
        )
    if status == 403:
        return f"{repo}: the token may not write there (403): use one with write access to '{owner}', or another name"
    again = "run the command again: files that the hub has are not sent twice"
    if status:
        return f"{repo}: the hub answers {status}: {_one_line(cause)}; {again}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo}: HF_HUB_OFFLINE is set; unset it to upload"
    place = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{repo}: cannot reach the hub at {place} ({_one_line(cause)}); check the network, then {again}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
