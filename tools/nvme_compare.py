"""Compares what nvme-cli told of two controllers, field by field.

Usage: nvme_compare.py DIFFERENCES REFERENCE OURS

REFERENCE and OURS are folders that scripts/guest/nvme-cli.sh has filled. A field is named FILE.KEY.KEY, where lists are
numbered, and a command's exit status FILE.status. DIFFERENCES is a file with lines `FIELD = VALUE: EXPLANATION`, where
FIELD and VALUE are patterns as in a shell: of a field, and of what it is in OURS (`-`: it is not there). Without
` = VALUE` it may be anything. Every difference is printed with its explanation; one without ends this with 1.
"""

import fnmatch
import json
import re
import sys
from pathlib import Path


def flatten(value, name):
    """Yields (name, value) of every leaf."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(part, f"{name}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from flatten(part, f"{name}.{index}")
    else:
        yield name, value


def parse_json(text):
    """The first JSON object or list in a text: nvme-cli writes a heading over some."""
    begin = re.search(r"[\[{]", text)
    return json.loads(text[begin.start() :]) if begin else text.strip()


# What differs from one machine to the next, or from one run to the next, and is no field.
NAMES = re.compile(r"\bnvme\d+(n\d+)?\b|\bng\d+n\d+\b")


def normal(value):
    """A value without the names that the kernel gave the devices."""
    return NAMES.sub("nvme", value) if isinstance(value, str) else value


# nvme-cli prints what the status means, too; how it does that depends on the Do Not Retry bit.
STATUS = re.compile(r"NVMe status: ([^:(]+).*\((0x[0-9a-f]+)\)")


def parse_text(text):
    """Fields of a text: `key : value` lines by their key, the others by their number. A dump of bytes is one field."""
    lines = [line for line in text.splitlines() if line.strip()]
    dump = [line for line in lines if re.match(r"[0-9a-f]{4,8}: [0-9a-f]{2} ", line)]
    if dump:
        yield "bytes", " ".join(line.split(":", 1)[1].split('"')[0].strip() for line in dump)
        return
    for number, line in enumerate(lines):
        status = STATUS.search(line)
        match = re.fullmatch(r"\s*([A-Za-z][\w .()/-]*?)\s*[:=]\s*(.+)", line)
        if status:
            yield "status code", f"{status[2]} {status[1].strip()}"
        elif match:
            yield match[1], match[2].strip()
        else:
            yield str(number), line.strip()


def read_file(path):
    """The fields of one file."""
    text = path.read_text(errors="replace")
    if path.suffix == ".json":
        try:
            return dict(flatten(parse_json(text), path.stem))
        except json.JSONDecodeError:
            return {path.stem: text.strip()}
    if path.suffix == ".status":
        return {path.name: text.strip()}
    return {f"{path.stem}.{key}": value for key, value in parse_text(text)}


def read_folder(folder):
    """All fields of a controller."""
    fields = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in (".json", ".txt", ".status"):
            fields.update(read_file(path))
    return {NAMES.sub("nvme", name): normal(value) for name, value in fields.items()}


def read_explanations(path):
    """[(pattern of a field, pattern of our value, explanation)] of a list of differences."""
    explanations = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, colon, explanation = line.partition(": ")
        if not colon or not explanation.strip():
            raise ValueError(f"{path}:{number}: `FIELD = VALUE: EXPLANATION` was expected, not {line!r}")
        field, _, value = pattern.partition(" = ")
        explanations.append((field.strip(), value.strip() or "*", explanation.strip()))
    return explanations


def as_text(value):
    """A value as patterns see it."""
    return "-" if value is None else str(value).strip()


def compare(reference, ours, explanations):
    """Returns ([(field, reference's, ours, explanation or None)], [(field, value) of patterns that matched nothing])."""
    differences = []
    used = set()
    for field in sorted(reference.keys() | ours.keys()):
        pair = reference.get(field), ours.get(field)
        if pair[0] == pair[1]:
            continue
        match = next((entry for entry in explanations if fnmatch.fnmatchcase(field, entry[0])
                      and fnmatch.fnmatchcase(as_text(pair[1]), entry[1])), None)
        if match:
            used.add(match[:2])
        differences.append((field, *pair, match[2] if match else None))
    return differences, [entry[:2] for entry in explanations if entry[:2] not in used]


def show(value):
    """A value as it is printed."""
    shown = as_text(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def main(arguments):
    """Prints the differences; returns the exit status."""
    if len(arguments) != 3:
        print(__doc__.splitlines()[2], file=sys.stderr)
        return 2
    explanations = read_explanations(arguments[0])
    reference, ours = (read_folder(folder) for folder in arguments[1:])
    for folder, fields in zip(arguments[1:], (reference, ours)):
        if len(fields) < 100:
            print(f"{folder} holds {len(fields)} fields only: nvme-cli did not run to its end", file=sys.stderr)
            return 1
    differences, unused = compare(reference, ours, explanations)
    for field, theirs, mine, why in differences:
        if why:
            print(f"{field}: {show(theirs)} | {show(mine)}  ({why})")
    unexplained = [entry for entry in differences if not entry[3]]
    for field, value in unused:
        print(f"no longer a difference: {field} = {value}")
    for field, theirs, mine, _ in unexplained:
        print(f"NOT EXPLAINED: {field}: {show(theirs)} | {show(mine)}")
    same = len(reference.keys() & ours.keys()) - sum(1 for entry in differences if None not in entry[1:3])
    print(f"{same} fields are the same, {len(differences)} differ, {len(unexplained)} of them without an explanation")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
