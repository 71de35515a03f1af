"""The chart of a run: gnuplot draws the ratio and interval of every figure, and its goal, as SVG."""

import math
import shutil
import subprocess

ROW_PX = 18
WIDTH_PX = 900
FRAME_PX = 110
# The colours of figures whose goal is met, missed, not there.
SERIES = (("met", "#2a7f3f"), ("missed", "#c0392b"), ("", "#7f8c8d"))
GOAL_COLOUR = "#1f4e9c"


def write(path, judgements, names):
    """Draws the chart; returns why not, or None."""
    if not shutil.which("gnuplot"):
        return "there is no gnuplot (Debian's package gnuplot-nox)"
    ended = subprocess.run(["gnuplot"], input=script(path, judgements, names), text=True, check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return f"gnuplot: {ended.stderr.strip()}" if ended.returncode else None


def script(path, judgements, names):
    """What gnuplot is told: data, then one plot per series. The first figure is the topmost row."""
    drawn = [verdict for verdict in judgements if not math.isnan(verdict.comparison.ratio)]
    rows = list(enumerate(reversed(drawn), 1))
    blocks, plots = [], []
    for number, (word, colour) in enumerate(SERIES):
        data = "".join(_row(y, verdict) for y, verdict in rows if verdict.word == word)
        if data:
            title = f"goal {word}" if word else "no goal"
            blocks.append(f"$series{number} << END\n{data}END\n")
            plots.append(f"$series{number} using 1:2:3:4 with xerrorbars pointtype 7 pointsize 0.6 "
                         f"linecolor rgb '{colour}' title '{title}'")
    goals = "".join(f"{verdict.goal.as_ratio(verdict.comparison):.4f} {y}\n" for y, verdict in rows
                    if verdict.goal and verdict.comparison.first > 0)
    if goals:
        blocks.append(f"$goals << END\n{goals}END\n")
        plots.append("$goals using 1:2 with points pointtype 2 pointsize 0.8 linewidth 2 "
                     f"linecolor rgb '{GOAL_COLOUR}' title 'goal'")
    tics = ", ".join(f"{_quoted(verdict.name)} {y}" for y, verdict in rows)
    return "".join(blocks) + f"""
set terminal svg size {WIDTH_PX},{FRAME_PX + ROW_PX * max(1, len(rows))} font 'sans,11' background '#ffffff'
set output {_quoted(path)}
set title {_quoted(f'{names[1]} / {names[0]}: ratio of medians, 95 % interval')} noenhanced
set ytics ({tics}) noenhanced
set yrange [0.3:{len(rows) + 0.7}]
set xrange [*<0:*]
set xtics nomirror
set grid xtics ytics linecolor rgb '#dddddd' linetype 1
set key below horizontal
set arrow from 1, graph 0 to 1, graph 1 nohead dashtype 2 linecolor rgb '#000000'
plot {", ".join(plots) or "NaN notitle"}
"""


def _row(y, verdict):
    c = verdict.comparison
    low, high = (c.ratio, c.ratio) if math.isnan(c.low) else (c.low, c.high)
    return f"{c.ratio:.5f} {y} {low:.5f} {high:.5f}\n"


def _quoted(words):
    return "'" + words.replace("'", "''") + "'"
