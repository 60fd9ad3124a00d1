"""Where the members of an ensemble of reward models are."""

from __future__ import annotations

from pathlib import Path


def member_folder(folder: Path, member: int) -> Path:
    """The folder of one of several models of a stage, or of its checkpoints: the first is in `folder` itself."""
    return folder if member == 1 else folder / "members" / str(member)


def member_folders(folder: Path) -> list[Path]:
    """The folders of all models of a finished stage, in order; of a folder without members, itself."""
    others = sorted((int(f.name), f) for f in (folder / "members").glob("[0-9]*"))
    return [folder, *(f for _, f in others)]


def members_of(name: str) -> list[str]:
    """The models that a name stands for: the members of an ensemble's folder; a hub id or another folder itself."""
    return [str(folder) for folder in member_folders(Path(name))] if Path(name).is_dir() else [name]
