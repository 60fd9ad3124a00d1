"""A process that answers without models, for tests of the page: what it does depends on the message.

    python fake.py [STORY]

STORY: `until FILE` is there it loads; `broken` loading; `chats`; or nothing. A message `die`, `kill`, `hang` or `fail`
does that.
"""

import json
import os
import sys
import time

WORDS = [" good", " film", "\n", ""]


def answer(text, place, score):
    ids = list(range(10, 10 + len(WORDS)))
    alternatives = [[[word, -0.5, id], ["<b>other</b>", -2.5, 99]] for word, id in zip(WORDS, ids, strict=True)]
    return {
        "text": f" {text} {place}", "ids": ids, "pieces": WORDS, "ended": True, "logprobs": [-0.5, -1.25, -4.0, -6.0],
        "ref_logprobs": [-0.5, -1.0, -4.0, -5.0], "alternatives": alternatives, "kl": 1.5, "token_kl": [0.5, 1.0, 0, 0],
        "score": score, "parts": {"model": score}, "judge": 0.75,
    }  # fmt: skip


def tell(**message):
    print(json.dumps(message), flush=True)


def main(story=""):
    tell(kind="loading", done=1, total=4, message="opening the models")
    while story.startswith("until ") and not os.path.exists(story.removeprefix("until ")):
        time.sleep(0.01)
    if story == "broken":
        tell(kind="error", message="no model here; use another")
        sys.exit(1)
    prompts = [{"shown": "an evaluation prompt", "prompt": "an evaluation prompt"}]
    if story == "chats":
        prompts = [{"shown": "a question", "prompt": [{"role": "user", "content": "a question"}]}]
    tell(
        kind="ready", chats=story == "chats", prompts=prompts, reward="reward model", no_score="", judge="films",
        no_judge="",
    )  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        turn, message = request["turn"], request["message"]
        if message == "die":
            print("plaudit: error: the disk is gone", file=sys.stderr, flush=True)
            os._exit(3)
        if message == "kill":
            os.kill(os.getpid(), 9)
        if message == "hang":
            time.sleep(60)
        if message == "fail":
            tell(kind="failed", turn=turn, message="a prompt of 99 tokens does not fit; shorten it")
            continue
        for side, asked in enumerate(request["asked"]):
            words = asked if isinstance(asked, str) else " / ".join(each["content"] for each in asked)
            answers = [answer(words, place, side - 0.25) for place in range(request["answers"])]
            tell(kind="answers", turn=turn, side=side, answers=answers)
        tell(kind="done", turn=turn)


if __name__ == "__main__":
    main(*sys.argv[1:2])
