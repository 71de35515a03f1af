"""Prints fio's results in a folder as a table: python3 fio_table.py FOLDER

The folder holds NAME.json (fio's own output) and NAME.verified (one line: how the data was checked) of each job.
"""

import json
import pathlib
import sys

COLUMNS = ("job", "IOPS", "MiB/s", "mean latency", "p99 latency", "data verified")


def microseconds(nanoseconds):
    """A latency for people."""
    return f"{nanoseconds / 1000:,.0f} us"


def row(path):
    """One job's cells. A job that died in the middle has a result that is no JSON, or none."""
    verified = path.with_suffix(".verified").read_text().strip()
    name = path.stem.split("-", 1)[1]
    try:
        text = path.read_text()
        job = json.loads(text[text.index("{"):])["jobs"][0]
    except (OSError, ValueError, LookupError):
        return (name, "-", "-", "-", "-", verified)
    side = max((job["read"], job["write"]), key=lambda side: side["total_ios"])
    p99 = side["clat_ns"].get("percentile", {}).get("99.000000")
    return (name, f"{side['iops']:,.0f}", f"{side['bw_bytes'] / 2**20:,.1f}", microseconds(side["lat_ns"]["mean"]),
            microseconds(p99) if p99 is not None else "-", verified)


def main(folder):
    """Prints the table."""
    jobs = sorted(pathlib.Path(folder).glob("*.verified"))
    rows = [COLUMNS] + [row(path.with_suffix(".json")) for path in jobs]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(COLUMNS))]
    for number, cells in enumerate(rows):
        middle = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1])]
        print("  ".join([cells[0].ljust(widths[0])] + middle + [cells[-1]]))
        if number == 0:
            print("-" * (sum(widths) + 2 * (len(widths) - 1)))


if __name__ == "__main__":
    main(sys.argv[1])
