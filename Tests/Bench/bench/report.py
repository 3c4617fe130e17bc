"""How it is told: tables of Markdown, what plots.py draws, and the machine it was measured on."""

import os
import platform
import re
import subprocess
from pathlib import Path

import pika

from .services import ROOT

GROWTH = "| work | unit | | | | | last beside first |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
MEMORY = "| work | a tenth | the whole | goal |\n| --- | ---: | ---: | --- |"
ABOUT = (
    "Medians; subjects take turns within a row; every "
    "result is checked (what is in the queue, the bytes of the answers). CPU is the time of all processors, user and system; "
    "memory is the largest peak of any process of the command. 'A tenth' did that part of the work, and its time is scaled. "
    "An installed copy is measured."
)
GROWING = "Cost per unit, and the peak of memory, at four sizes. JSON is read and written by itself, without a broker."


def table(head, rows):
    return "\n".join([head, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def image(folder, name, title):
    return f"![{title}: the same figures as bars]({folder}/{name}.svg)\n"


def shown(number):
    return f"{number:.{2 if number < 100 else 0}f}"


def met(is_met):
    return "met" if is_met else "missed"


def mebibytes(subject, digits=1):
    return f"{subject.memory / 1024:.{digits}f} MiB"


def told(goal, ratio):
    text = f"{goal.limit:g} times or less" if goal.speed is None else f"{goal.speed:g} times as fast or more"
    return ("CPU " if goal.of == "cpu" else "") + f"{text}: {met(goal.is_met(ratio))}"


def row_table(row):
    scale, unit = row.unit
    # Faster is told as speed where the goal is one.
    is_speed = any(goal.speed for subject in row.subjects for goal in subject.goals)

    def cells(subject):
        ratio, cpu_ratio = subject.beside(row.compared), subject.beside(row.compared, "cpu")
        return [
            subject.name,
            shown(subject.seconds * scale),
            f"{1 / ratio:.2f} times as fast" if is_speed else f"{ratio:.2f}",
            shown(subject.cpu * scale) if subject.cpu_times else "",
            f"{cpu_ratio:.2f}" if cpu_ratio else "",
            mebibytes(subject) if subject.memory else "",
            "; ".join(told(goal, subject.beside(row.compared, goal.of)) for goal in subject.goals),
        ]

    head = f"| {row.title} | {unit} | beside {row.reference} | CPU | beside | memory | goal |"
    return table(head + "\n| --- | ---: | ---: | ---: | ---: | ---: | --- |", map(cells, row.subjects))


def row_plot(row):
    """For plots.py: a bar for each time, then one for each CPU time that has a goal, and what it is beside."""
    with_cpu = [each for each in row.subjects if any(goal.of == "cpu" for goal in each.goals)]
    bars = []
    for of, subjects in (("time", row.subjects), ("cpu", [*with_cpu, row.compared] if with_cpu else [])):
        for subject in subjects:
            ratio = subject.beside(row.compared, of)
            goals = [{"ratio": goal.ratio, "met": goal.is_met(ratio)} for goal in subject.goals if goal.of == of]
            bars.append({"name": subject.name + (", CPU" if of == "cpu" else ""), "ratio": ratio, "goals": goals})
    return {"title": f"{row.title} (beside {row.reference})", "bars": bars}


def growth_table(works):
    def cells(work):
        sizes = zip(work.sizes, work.costs, work.subjects, strict=True)
        middle = [f"{work.label(size)}: {cost:.3g} ({mebibytes(subject, 0)})" for size, cost, subject in sizes]
        return [work.title, work.unit, *middle, f"{work.costs[-1] / work.costs[0]:.2f}"]

    return table(GROWTH, map(cells, works))


def growth_plot(work):
    return {"title": work.title, "costs": work.costs}


def memory_table(streams):
    def cells(pair, count):
        part, whole = pair
        is_flat = whole.memory * 1024 < 20e6 and whole.memory < part.memory * 1.1
        goal = f"under 20 MB, flat: {met(is_flat)}" if whole.name.startswith("msctl") else ""
        return [f"{whole.name}, {count:,} messages", mebibytes(part), mebibytes(whole), goal]

    return table(MEMORY, (cells(pair, count) for pair, count in streams))


def first_line(*words):
    output = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    return output.strip().splitlines()[0]


def package(name):
    return subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", name], text=True)


def found(pattern, file):
    match = re.search(pattern, Path(file).read_text())
    return match.group(1) if match else None


def machine():
    name = found(r"model name\s*: (.*)", "/proc/cpuinfo") or platform.machine()
    gibibytes = int(found(r"MemTotal:\s+(\d+)", "/proc/meminfo")) // 1048576
    system = found(r'PRETTY_NAME="(.*)"', "/etc/os-release")
    versions = [
        first_line("msctl", "--version") + " (" + first_line("git", "-C", ROOT, "describe", "--always", "--dirty") + ")",
        first_line("curl", "--version").split(" (")[0],
        "HTTPie " + package("httpie"),
        first_line("jq", "--version"),
        first_line("consul", "--version"),
        "RabbitMQ " + package("rabbitmq-server") + " and, where a row says so, 4.3 of Debian unstable",
        "librabbitmq and amqp-tools " + package("amqp-tools"),
        "pika " + pika.__version__,
        "nginx " + package("nginx-light"),
        "wrk " + package("wrk"),
    ]
    return (
        f"{os.cpu_count()} cores ({name}), {gibibytes} GiB, {system}, Linux {platform.release()}; everything, "
        f"the services too, on this one machine.\n\nVersions: {', '.join(versions)}.\n"
    )
