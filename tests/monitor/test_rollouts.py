"""The index of rollouts: growing files, files that are cut back, and 100,000 of them."""

import json
import time

from monitor.runs import rollout, write

from plaudit.monitor.rollouts import Rollouts


def test_a_growing_file_is_read_on_from_where_it_ended(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    index = Rollouts(path)
    assert index.find().count == 0
    write(path, [rollout(1, i) for i in range(3)])
    assert index.find().count == 3
    with path.open("a") as file:
        text = json.dumps(rollout(2, 0))
        file.write(text[:20])
        file.flush()
        assert index.find().count == 3
        file.write(text[20:] + "\n")
    assert [row["iteration"] for row in index.find().rows] == [1, 1, 1, 2]


def test_a_file_that_is_cut_back_or_replaced_is_read_anew(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    write(path, [rollout(1, i) for i in range(5)])
    index = Rollouts(path)
    assert index.find().count == 5
    with path.open("r+b") as file:
        file.truncate(len(json.dumps(rollout(1, 0))) + 1)
    assert index.find().count == 1
    path.unlink()
    write(path, [rollout(7, i) for i in range(9)])
    assert {row["iteration"] for row in index.find().rows} == {7}


def test_those_without_a_figure_come_last_in_both_orders(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    write(path, [rollout(1, 0, score=None), rollout(1, 1), rollout(1, 2)])
    for descending, expected in ((True, [0.2, 0.1, None]), (False, [0.1, 0.2, None])):
        assert [row["score"] for row in Rollouts(path).find(sort="score", descending=descending).rows] == expected


def test_a_hundred_thousand_rollouts(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    write(path, [rollout(i // 128, i) for i in range(100_000)])
    index = Rollouts(path)
    index.update()
    began = time.process_time()
    assert index.find(sort="score").rows[0]["score"] == 9999.9
    assert index.find(text="response 99999").count == 1
    assert index.find(iteration=300, page=2).page == 2
    assert time.process_time() - began < 5  # three requests
