"""The live page of a run inside the labelling app: for the owner only."""

import pytest
from feedback.sites import another, joined, owner, pages
from starlette.responses import PlainTextResponse

PATHS = ["/training/", "/training/curves", "/training/watch.js"]


@pytest.fixture
def client(tmp_path):
    with pages(tmp_path, training=PlainTextResponse("the live page")) as (client, _):
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_only_the_owner_sees_the_training(client, path):
    assert another(client).get(path, follow_redirects=False).status_code == 303
    assert joined(client, "Ada").get(path).status_code == 403
    assert owner(client).get(path).text == "the live page"


def test_only_the_owner_has_the_link(client):
    assert 'href="/training/"' in owner(client).get("/").text
    assert "/training" not in joined(client, "Ada").get("/").text


def test_the_links_of_the_mounted_page_stay_where_it_is(tmp_path):
    from plaudit.monitor.app import make_app

    with pages(tmp_path / "a", training=make_app(tmp_path / "run")) as (client, _):
        html = owner(client).get("/training/").text
        assert 'href="/training/curves"' in html
        assert 'href="/training/" aria-current="page"' in html
        assert client.get("/training/watch.css").status_code == 200
