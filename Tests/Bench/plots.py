"""Draws the figures of the bench: Tests/Bench/plots.py FOLDER < FIGURES, as the bench hands them over.

Each family of rows becomes a plot with a bar for each subject: its time (or its CPU time) beside the one that the row compares
with. The costs that grow become one plot with a line for each work. An SVG has the same bytes for the same figures, a
transparent background, and other inks where a reader prefers dark pages.
"""
import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

matplotlib.rcParams.update({
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "msctl",
    "font.family": ["sans-serif"],
    "font.size": 9,
})

# Colour of light pages -> colour of dark pages.
INK, MET, MISSED, OTHER, FAINT = "#1f2328", "#2f7d4f", "#b4540a", "#8c959f", "#d0d7de"
DARK = {INK: "#e6edf3", MET: "#57ab6e", MISSED: "#e0823d", OTHER: "#768390", FAINT: "#444c56"}
LINES = ["#2f7d4f", "#b4540a", "#0969da", "#8250df", "#bf3989", "#8c959f", "#57606a", "#1b7c83"]
# Bars end at this many times the largest of those that are compared (their own ends stand beside them).
ROOM = 1.6


def save(figure, folder, name):
    file = folder / f"{name}.svg"
    figure.savefig(file, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = file.read_text()
    rules = "".join(f'[style*="fill: {light}"]{{fill:{dark}!important}}[style*="stroke: {light}"]{{stroke:{dark}!important}}'
                    for light, dark in DARK.items())
    # Text without a style of its own is black.
    text = re.sub(r"</style>", f"text{{fill:{INK}}}@media(prefers-color-scheme:dark){{text{{fill:{DARK[INK]}}}{rules}}}</style>",
                  text, count=1)
    file.write_text(text)


def family(folder, name, rows):
    bars = sum(len(row["bars"]) for row in rows)
    figure, axes = pyplot.subplots(figsize=(8, 0.25 * (bars + 2 * len(rows)) + 0.5))
    compared = [bar["ratio"] for row in rows for bar in row["bars"] if bar["goals"] or bar["ratio"] == 1]
    edge = ROOM * max(compared)
    place, places, names = 0, [], []
    for row in rows:
        axes.text(0, place, row["title"], color=INK, fontweight="bold", va="center")
        place += 1
        for bar in row["bars"]:
            colour = OTHER if not bar["goals"] else MET if all(goal["met"] for goal in bar["goals"]) else MISSED
            axes.barh(place, min(bar["ratio"], edge), height=0.7, color=colour)
            end = max([min(bar["ratio"], edge)] + [goal["ratio"] for goal in bar["goals"]])
            cut = " (cut)" if bar["ratio"] > edge else ""
            axes.text(end + edge / 100, place, f"{bar['ratio']:.2f}{cut}", color=INK, va="center")
            for goal in bar["goals"]:
                axes.plot([goal["ratio"]] * 2, [place - 0.45, place + 0.45], color=INK, linewidth=1.5)
            places.append(place)
            names.append(bar["name"])
            place += 1
        place += 0.5
    axes.set_yticks(places, names, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, edge)
    axes.axvline(1, color=FAINT, linewidth=1, zorder=0)
    axes.tick_params(colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("beside what the row compares with (1); shorter is faster; a mark is a goal", color=INK)
    save(figure, folder, name)


def growth(folder, name, works):
    figure, axes = pyplot.subplots(figsize=(8, 3.5))
    for work, colour in zip(works, LINES, strict=True):
        axes.plot([1, 2, 4, 8], [cost / work["costs"][0] for cost in work["costs"]], marker="o", markersize=4,
                  label=work["title"], color=colour)
    axes.set_ylim(bottom=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_xlabel("times the work", color=INK)
    axes.set_ylabel("cost per unit, beside the first", color=INK)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.legend(frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in axes.spines.values():
        side.set_color(FAINT)
    save(figure, folder, name)


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
figures = json.load(sys.stdin)
for name, rows in figures["families"].items():
    family(folder, name, rows)
if figures["growth"]:
    growth(folder, "growth", figures["growth"])
