"""Results of several policies or runs, as tables on stdout."""

from pathlib import Path
from typing import Any

from plaudit.cli.console import new_table, print_files, read
from plaudit.cli.progress import new_console
from plaudit.evaluation.report.methods import AT_KL_HEADS, HEADS, at_kl_cells, cells
from plaudit.evaluation.report.words import FRONTIER_HEADS, bracketed, interval, number, point_cells, written
from plaudit.publishing.receipt import Figure

_SEEDS = {  # figures in seeds.json: head of the column, and name
    "reward_accuracy": ("reward", "accuracy of the reward model"),
    "sft_score": ("SFT", ""),
    "score": ("score", ""),
    "score_difference": ("", "score, policy minus SFT"),
    "sft_judge": ("SFT", ""),
    "judge": ("judge", ""),
    "judge_difference": ("", "judge, policy minus SFT"),
    "kl": ("KL", "KL, nats"),
    "distinct_2_ratio": ("pairs", "distinct pairs, relative to SFT"),
    "length_ratio": ("length", "length, relative to SFT"),
    "duplicate_rate": ("copies", "duplicates"),
}


def frontier(directory: Path) -> None:
    """Best-of-n and PPO's policies, and how they compare."""
    found, console = read(directory / "frontier.json"), new_console()
    console.print("Best-of-n from SFT, and PPO by kl_coef and iteration, with 95% intervals", style="bold")
    points = (*found["best_of_n"], *found["ppo"])
    console.print(new_table(FRONTIER_HEADS, (point_cells(point, ("score", "judge")) for point in points)))
    for sentence in found["findings"]:
        console.print(sentence, soft_wrap=True)
    print_files(console, directory)


def methods(directory: Path) -> None:
    """Methods side by side, and how they compare at equal KL."""
    found, console = read(directory / "methods.json"), new_console()
    what = f"on {found['meta']['budget']:,} responses each, with 95% intervals"
    console.print(f"Methods side by side, {what}", style="bold")
    console.print(new_table(HEADS, map(cells, found["methods"])))
    if found["at_kl"]:
        console.print("At equal KL", style="bold")
        console.print(new_table(AT_KL_HEADS, map(at_kl_cells, found["at_kl"])))
    for sentence in found["findings"]:
        console.print(sentence, soft_wrap=True)
    print_files(console, directory)


def seeds(directory: Path, found: dict[str, Any]) -> None:
    """Every seed, the means with their intervals, and the seeds that diverged, from the contents of seeds.json."""
    console = new_console()
    console.print("SFT model and policy: score and judge; pairs and length relative to SFT", style="bold")
    columns = {key: head for key, (head, _) in _SEEDS.items() if head}
    rows = [["seed", *columns.values(), "diverged"]]
    for row in found["seeds"]:
        cells = (written(number(row, key), "{:.2f}") for key in columns)
        rows.append([str(row["seed"]), *cells, "yes" if row["diverged"] else "no"])
    console.print(new_table(rows[0], rows[1:]))
    for key, figure in found["means"].items():
        mean = f"{written(figure['mean'], '{:.2f}')} {bracketed(interval(figure, 'ci95'))}"
        console.print(f"{_SEEDS[key][1]}: {mean}", soft_wrap=True)
    for row in found["seeds"]:
        if row["diverged"]:
            console.print(f"seed {row['seed']}: {row['diverged']}", style="bold red", soft_wrap=True)
    console.print(f"{found['diverged']} of {len(found['seeds'])} diverged: {directory / 'seeds.json'}", soft_wrap=True)


def sweep(directory: Path, found: dict[str, Any]) -> None:
    """Every run of a sweep, and its points from the best to the worst, from the contents of sweep.json."""
    console = new_console()
    columns = {key: head for key, (head, _) in _SEEDS.items() if head}
    ran = [
        (row["point"], str(row["seed"]), *(written(number(row, key), "{:.2f}") for key in columns))
        for row in found["runs"]
    ]
    console.print(new_table(("", "seed", *columns.values()), ran))
    for row in found["runs"]:
        if row["diverged"]:
            console.print(f"{row['point']}, seed {row['seed']}: {row['diverged']}", style="bold red", soft_wrap=True)
    console.print(f"Points by {found['by']}, with 95% intervals over seeds and prompts", style="bold")
    points = sorted(found["points"], key=lambda point: -point["mean"])
    ranked = [
        (
            point["point"],
            f"{written(point['mean'], '{:.2f}')} {bracketed(interval(point, 'ci95'))}",
            f"{written(number(point['below_best'], 'mean'), '{:+.2f}')} "
            f"{bracketed(interval(point['below_best'], 'ci95'), '{:+.2f}')}",
            written(number(point, "kl"), "{:.2f}"),
        )
        for point in points
    ]
    console.print(new_table(("", found["by"], "against the best", "KL"), ranked))
    if found["warning"]:
        console.print(f"WARNING: {found['warning']}", style="bold red", soft_wrap=True)
    console.print(str(directory / "sweep.csv"), soft_wrap=True)


def receipt(figures: list[Figure], weights: dict[str, bool], versions: list[str]) -> int:
    """A receipt's figures beside those of this machine; returns the exit code, 1 where one does not agree."""
    console = new_console()
    words = {True: "agrees", False: "DIFFERS", None: ""}
    rows = [
        (
            figure.name,
            written(figure.before, "{:.3f}"),
            written(figure.here, "{:.3f}"),
            "" if figure.tolerance is None else f"{figure.tolerance:.3f}",
            words[figure.agrees],
        )
        for figure in figures
    ]
    console.print(new_table(("", "receipt", "here", "may differ by", ""), rows))
    equal = [stage for stage, same in weights.items() if same]
    console.print(f"weights equal to the last bit: {', '.join(equal) or 'none'}", soft_wrap=True)
    for line in versions:
        console.print(line, soft_wrap=True)
    wrong = [figure.name for figure in figures if figure.agrees is False]
    if wrong:
        console.print(f"not as in the receipt: {', '.join(wrong)}", style="bold red", soft_wrap=True)
    return 1 if wrong else 0
