"""Turn the records of a benchmark into Markdown. This module measures nothing and does not import torch."""

from __future__ import annotations

import statistics

HEAD = (
    "name", "seconds an update", "generation / scoring / training", "tokens/s", "peak memory",
    "time vs plaudit", "plaudit's memory vs this",
)  # fmt: skip
TRAINERS_HEAD = (
    "trainer", "plaudit, tokens/s", "TRL, tokens/s", "times as fast", "goal", "plaudit's memory", "TRL's memory",
    "share", "goal of the share",
)  # fmt: skip
MEMORY_GOAL = 0.6  # of TRL's


def render(results: dict) -> str:
    """The report of `bench.json`: PPO update, trainers, stages of the demo, machine and settings."""
    parts = [contenders(results["contenders"]), trainers(results.get("trainers", []))]
    if results.get("stages"):
        parts.append(stages(results["stages"]))
    parts += [machine(results["machine"]), settings(results["contenders"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def contenders(records: list[dict]) -> str:
    """One row for each contender. The first measured plaudit, which trains all parameters, is the reference."""
    if not records:
        return ""
    ours = next((r for r in records if r.get("ours") and "error" not in r), None)
    rows = []
    for r in records:
        if "error" in r:
            rows.append([r["name"], r["error"], *[""] * (len(HEAD) - 2)])
            continue
        seconds = statistics.median(r["seconds"])
        against = ["", ""]
        if ours:
            share = memory(ours) / memory(r)
            against = [f"{seconds / statistics.median(ours['seconds']):.2f}", f"{share:.0%}"]
        phases = " / ".join(f"{r[phase]:.2f}" for phase in ("generation", "scoring", "training"))
        spread = f"{seconds:.2f} ({min(r['seconds']):.2f}-{max(r['seconds']):.2f})"
        rows.append([r["name"], spread, phases, f"{r['tokens'] / seconds:.1f}", gib(memory(r)), *against])
    return table(HEAD, rows)


def trainers(comparisons: list[dict]) -> str:
    """One row for each of TRL's trainers beside plaudit, with the goals, and the settings of both."""
    if not comparisons:
        return ""
    ran = [
        each[side][-1] | {"name": f"{each['name']}, {each[side][-1]['name']}"}
        for each in comparisons
        for side in ("plaudit", "trl")
        if "error" not in each[side][-1]
    ]
    note = (
        f"Rounds: {len(comparisons[0]['plaudit'])}, in which plaudit and TRL take turns; medians (slowest-fastest). "
        "Tokens are those of the texts, without padding; of GRPO and RLOO, those that are sampled. Memory is the peak "
        "of the process."
    )
    rows = [_comparison(each) for each in comparisons]
    return "\n\n".join(["TRL's newest trainers:", table(TRAINERS_HEAD, rows), note, *_setting_lines(ran)])


def _comparison(found: dict) -> list[str]:
    """The row of one comparison; an error of a round where a side has no round without one."""
    ran = {side: [r for r in found[side] if "error" not in r] for side in ("plaudit", "trl")}
    if not all(ran.values()):
        errors = [f"{side}: {found[side][0]['error']}" for side in ran if not ran[side]]
        return [found["name"], "; ".join(errors), *[""] * (len(TRAINERS_HEAD) - 2)]
    speeds = {side: [sum(r["tokens"]) / sum(r["seconds"]) for r in records] for side, records in ran.items()}
    speed = {side: statistics.median(each) for side, each in speeds.items()}
    size = {side: statistics.median(map(memory, records)) for side, records in ran.items()}
    return [
        found["name"],
        *(f"{speed[side]:.0f} ({min(speeds[side]):.0f}-{max(speeds[side]):.0f})" for side in ran),
        f"{speed['plaudit'] / speed['trl']:.1f}",
        f"{found['goal']}",
        *(gib(size[side]) for side in ran),
        f"{size['plaudit'] / size['trl']:.0%}",
        f"{MEMORY_GOAL:.0%}",
    ]


def memory(record: dict) -> int:
    """Peak memory in bytes: of the GPU where one was used, otherwise of the process."""
    return record.get("peak_gpu_memory", record["peak_memory"])


def stages(found: dict) -> str:
    """Seconds of each stage of `plaudit run` with the built-in model and data."""
    if "error" in found:
        return f"`plaudit run` with the built-in model and data: {found['error']}"
    seconds = {**found, "all": sum(found.values())}
    return "`plaudit run` with the built-in model and data:\n\n" + table(
        ("stage", "seconds"), [[name, f"{value:.1f}"] for name, value in seconds.items()]
    )


def machine(found: dict) -> str:
    """Names and measured peaks of the machine."""
    if "error" in found:
        return f"The machine's peaks: {found['error']}"
    where = found["gpu"] if found["device"] == "cuda" else found["cpu"]
    rows = [
        [f"matrix product {' x '.join(map(str, found['shapes'][shape]))}, {dtype}", f"{flops / 1e9:,.0f} GFLOP/s"]
        for shape, kinds in found["flops"].items()
        for dtype, flops in kinds.items()
    ]
    rows.append(["copy, read and written", f"{found['copy'] / 1e9:.1f} GB/s"])
    names = f"{where}, threads {found['threads']}, torch {found['torch']}, Python {found['python']}"
    return f"{names}:\n\n" + table(("peak", "measured"), rows)


def settings(records: list[dict]) -> str:
    """Settings that all contenders share, then those of each one."""
    ran = [r for r in records if "error" not in r]
    if not ran:
        return ""
    counted = ", ".join(sorted({str(len(r["seconds"])) for r in ran}))
    what = "peak GPU memory" if any("peak_gpu_memory" in r for r in ran) else "the peak of the process"
    note = f"Medians of {counted} updates (fastest-slowest) after a warm-up; memory is {what}."
    return "\n\n".join([note, *_setting_lines(ran)])


def _setting_lines(records: list[dict]) -> list[str]:
    """A list of the settings that all records share, then those of each one; no list where there are no records."""
    if not records:
        return []
    common = {k: v for k, v in records[0]["settings"].items() if all(r["settings"].get(k) == v for r in records)}
    lines = [f"- all: {_listed(common)}"]
    for r in records:
        own = {k: v for k, v in r["settings"].items() if k not in common}
        if own:
            lines.append(f"- {r['name']}: {_listed(own)}")
    return ["\n".join(lines)]


def _listed(values: dict) -> str:
    return "; ".join(f"{name} {value}" for name, value in values.items())


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells))
