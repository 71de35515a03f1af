"""Tests of the configurations that set little memory aside: python3 -m unittest discover -s tools"""

import json
import pathlib
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZES = ("bdev_set_options", "iobuf_set_options", "iscsi_set_options")


def sizes(path):
    """The parameters of the methods that set memory aside, by method."""
    subsystems = json.loads(path.read_text(encoding="utf-8"))["subsystems"]
    return {call["method"]: call["params"] for subsystem in subsystems for call in subsystem["config"] if call["method"] in SIZES}


class PoolSizes(unittest.TestCase):
    """One set of sizes for scripts, tests and containers."""

    def test_the_containers_have_the_sizes_of_the_scripts(self):
        scripts = sizes(ROOT / "scripts/small-pools.json")
        self.assertEqual(sorted(scripts), sorted(SIZES))
        for name in ("pool", "server", "client"):
            expected = dict(scripts)
            if name == "client":
                # bdevperf has no iSCSI.
                del expected["iscsi_set_options"]
            self.assertEqual(sizes(ROOT / f"docker/{name}.json"), expected, name)


if __name__ == "__main__":
    unittest.main()
