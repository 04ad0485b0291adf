"""Files and folders: whole or not at all, also when something is interrupted, and never through a link."""

import os
from pathlib import Path

import pytest

from factorlm import files
from factorlm.files import recover_folders, remove_folder, sweep_folders, write_whole, write_whole_folder


def fill(content: str):  # noqa: ANN201
    def write(folder: Path) -> None:
        (folder / "a").write_text(content)

    return write


def test_a_link_at_a_guessed_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".card.{os.getpid()}.partial").symlink_to(victim)
    write_whole(tmp_path / "card", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "card").read_text() == "new"


def test_a_temporary_file_that_is_there_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, guess = tmp_path / "victim", tmp_path / "guess"
    victim.write_text("mine")
    guess.symlink_to(victim)
    monkeypatch.setattr(files, "_beside", lambda path, end: guess)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "card", "new")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("step", [1, 2])
def test_an_interruption_between_the_two_renames_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write_whole_folder(tmp_path / "kind", fill("old"))
    move, count = os.replace, 0

    def interrupted(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == 2 and step == 2:
            raise KeyboardInterrupt
        move(source, target)
        if count == 1 and step == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole_folder(tmp_path / "kind", fill("new"))
    assert (tmp_path / "kind" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kind"]


def test_what_a_killed_writer_moved_aside_comes_back(tmp_path: Path) -> None:
    write_whole_folder(tmp_path / "kind", fill("old"))
    (tmp_path / "kind").rename(tmp_path / f".kind.{'0' * 32}.old")
    recover_folders(tmp_path)
    assert (tmp_path / "kind" / "a").read_text() == "old"


def test_what_was_replaced_or_removed_does_not_come_back(tmp_path: Path) -> None:
    write_whole_folder(tmp_path / "kind", fill("new"))
    write_whole_folder(tmp_path / f".kind.{'0' * 32}.old", fill("old"))
    recover_folders(tmp_path)
    assert (tmp_path / "kind" / "a").read_text() == "new"
    remove_folder(tmp_path / "kind")
    recover_folders(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    write_whole_folder(tmp_path / "kind", fill("new"))
    write_whole_folder(tmp_path / ".versions", fill("kept"))
    number = "0123456789abcdef" * 2
    for name in (f".kind.{number}.partial", f".kind.{number}.old", f".gone.{number}.removed"):
        (tmp_path / name).mkdir()
        fill("half")(tmp_path / name)
    os.replace(tmp_path / f".kind.{number}.old", tmp_path / f".aside.{number}.old")  # nothing took its place
    (tmp_path / f".card.{number}.partial").write_text("half")
    (tmp_path / ".other").write_text("mine")
    sweep_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other", ".versions", "aside", "kind"]
    assert (tmp_path / "kind" / "a").read_text() == "new"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells what a handle stands for")
def test_a_durable_folder_is_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole_folder(tmp_path / "kind", fill("old"))
    steps: list[str] = []
    move, wait = os.replace, os.fsync

    def moved(source: Path, target: Path) -> None:
        steps.append(f"move {source.name.split('.')[-1]}")
        move(source, target)

    def waited(handle: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{handle}"))
        steps.append(f"sync {'the folder above' if place == tmp_path else place.name.split('.')[-1]}")
        wait(handle)

    monkeypatch.setattr(os, "replace", moved)
    monkeypatch.setattr(os, "fsync", waited)
    write_whole_folder(tmp_path / "kind", fill("new"), is_durable=True)
    assert steps == ["sync a", "sync partial", "move kind", "move partial", "sync the folder above"]
