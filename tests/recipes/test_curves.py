"""The picture of score and KL in several runs."""

from PIL import Image

from recipes.curves import draw


def test_a_picture_of_two_runs(finished_run, tmp_path):
    picture = tmp_path / "curves.png"
    draw(picture, [finished_run, finished_run], "ppo")
    with Image.open(picture) as found:
        assert found.size == (990, 330)
        assert len(found.convert("RGB").getcolors()) > 2
