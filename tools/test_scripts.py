"""Tests of functions of the shell scripts: python3 -m unittest discover -s tools"""

import os
import pathlib
import subprocess
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "scripts"


def bash(script, **variables):
    """Runs lines of bash after lib.sh; the finished process."""
    return subprocess.run(["bash", "-c", f". {SCRIPTS}/lib.sh\n{script}"], env=os.environ | variables, text=True,
                          capture_output=True, check=False, timeout=60)


class DockerOptions(unittest.TestCase):
    """Options for docker in environment variables."""

    SHOW = f". {SCRIPTS}/lib-docker.sh\nprintf '%s\\n' \"${{DOCKER_BUILD_OPTIONS[@]}}\""

    def options(self, text):
        """What `docker build` gets."""
        done = bash(self.SHOW, COURIER_DOCKER_BUILD=text, COURIER_CA="")
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.splitlines()

    def test_an_option_in_quotes_keeps_its_blanks_and_quotes(self):
        text = """--network host --build-arg 'APT_CONF=Acquire::Check-Valid-Until "false";' --build-arg "BASE=a b" """
        self.assertEqual(self.options(text), ["--network", "host", "--build-arg", 'APT_CONF=Acquire::Check-Valid-Until "false";',
                                              "--build-arg", "BASE=a b"])

    def test_nothing_is_expanded(self):
        self.assertEqual(self.options("--label $HOME --label '*'"), ["--label", "$HOME", "--label", "*"])

    def test_a_quote_without_an_end_is_told(self):
        done = bash(self.SHOW, COURIER_DOCKER_BUILD="--label 'a", COURIER_CA="")
        self.assertEqual(done.returncode, 1)
        self.assertIn("COURIER_DOCKER_BUILD has a quote without an end: --label 'a", done.stderr)


class BusyMachine(unittest.TestCase):
    """How much of the machine others had."""

    def test_others_have_what_is_used_and_not_ours(self):
        # Of two seconds, all used three of processors' time, and ours one and a half.
        done = bash(f". {SCRIPTS}/lib-target.sh\nothers '1000 50000 70000' '2500 53000 72000'")
        self.assertEqual((done.stdout, done.returncode), ("75\n", 0), done.stderr)

    def test_a_process_that_runs_is_ours_and_not_others(self):
        done = bash(f""". {SCRIPTS}/lib-target.sh
            (while :; do :; done) &
            before=$(processor_times /proc/$!)
            sleep 0.5
            after=$(processor_times /proc/$!)
            kill $!
            echo "$before $after" """)
        own, everyone, clock, own_after, everyone_after, clock_after = map(int, done.stdout.split())
        self.assertGreater(clock_after, clock)
        self.assertGreater(own_after, own)
        self.assertGreaterEqual(everyone_after - everyone, own_after - own - 20)


class Cores(unittest.TestCase):
    """Which core a process in a container gets."""

    def core(self, wanted):
        """The arguments of the program, and what is said."""
        done = subprocess.run(["taskset", "--cpu-list", "0", "sh", SCRIPTS.parent / "docker/on-core.sh", wanted, "echo", "--json"],
                              text=True, capture_output=True, check=True)
        return done.stdout.strip(), done.stderr

    def test_a_process_gets_a_core_that_is_there_and_is_told_when_it_shares_it(self):
        self.assertEqual(self.core("+0"), ("-m [0] --json", ""))
        arguments, said = self.core("+2")
        self.assertEqual(arguments, "-m [0] --json")
        self.assertIn("there are 1 cores", said)

    def test_a_core_that_is_named_is_used(self):
        self.assertEqual(self.core("7"), ("-m [7] --json", ""))


if __name__ == "__main__":
    unittest.main()
