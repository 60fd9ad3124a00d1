import pytest

from plaudit.errors import RunError
from plaudit.lesson import shipped as room
from plaudit.lesson.shipped import copy_to, shipped


def test_a_checkout_has_its_own_and_a_wheel_those_inside(tmp_path, monkeypatch):
    assert [n.name[0] for n in shipped()] == [str(i + 1) for i in range(len(shipped()))]
    assert shipped()[0].parent == room._IN_SOURCE
    (tmp_path / "1-x.ipynb").write_text("{}")
    monkeypatch.setattr(room, "_IN_WHEEL", tmp_path)
    assert shipped() == [tmp_path / "1-x.ipynb"]


def test_they_are_copied_and_what_is_there_is_not_touched(tmp_path):
    made = copy_to(tmp_path / "a" / "b", overwrite=False)
    assert [m.read_bytes() for m in made] == [n.read_bytes() for n in shipped()]

    made[0].write_text("my answers")
    for other in made[1:]:
        other.unlink()
    with pytest.raises(RunError, match=r"1-SFT.ipynb: is there already, and may hold your work; use --overwrite"):
        copy_to(tmp_path / "a" / "b", overwrite=False)
    assert made[0].read_text() == "my answers"
    assert not any(other.exists() for other in made[1:])

    copy_to(tmp_path / "a" / "b", overwrite=True)
    assert [m.read_bytes() for m in made] == [n.read_bytes() for n in shipped()]


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: the notebooks cannot be written there"):
        copy_to(tmp_path / "file", overwrite=False)


def test_an_installation_without_them_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_IN_WHEEL", tmp_path)
    monkeypatch.setattr(room, "_IN_SOURCE", tmp_path)
    with pytest.raises(RunError, match="no notebooks came with this installation"):
        shipped()
