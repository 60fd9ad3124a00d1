import pytest

from plaudit.errors import RunError
from plaudit.lesson import shipped


def test_notebooks_of_the_installed_package_come_before_those_of_a_checkout(tmp_path, monkeypatch):
    assert [path.name[0] for path in shipped.shipped()] == ["1", "2", "3", "4", "5"]
    (tmp_path / "1-x.ipynb").write_text("{}")
    monkeypatch.setattr(shipped, "_INSTALLED", tmp_path)
    assert shipped.shipped() == [tmp_path / "1-x.ipynb"]


def test_existing_files_are_replaced_only_on_request(tmp_path):
    contents = [path.read_bytes() for path in shipped.shipped()]
    copies = shipped.copy_to(tmp_path / "a" / "b", overwrite=False)
    assert [copy.read_bytes() for copy in copies] == contents

    copies[0].write_text("my answers")
    for other in copies[1:]:
        other.unlink()
    with pytest.raises(RunError, match=r"1-SFT.ipynb: already exists and may contain your work; use --overwrite"):
        shipped.copy_to(tmp_path / "a" / "b", overwrite=False)
    assert copies[0].read_text() == "my answers"
    assert not any(other.exists() for other in copies[1:])

    shipped.copy_to(tmp_path / "a" / "b", overwrite=True)
    assert [copy.read_bytes() for copy in copies] == contents


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: cannot write the notebooks"):
        shipped.copy_to(tmp_path / "file", overwrite=False)


def test_an_installation_without_notebooks_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_INSTALLED", tmp_path)
    monkeypatch.setattr(shipped, "_CHECKOUT", tmp_path)
    with pytest.raises(RunError, match="this installation contains no notebooks"):
        shipped.shipped()
