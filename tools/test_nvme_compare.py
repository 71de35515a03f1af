"""Tests of nvme_compare: fields, patterns, and that no difference goes by unexplained."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

import nvme_compare


class FieldsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, **files):
        for name, text in files.items():
            (self.folder / name.replace("__", ".")).write_text(text)
        return nvme_compare.read_folder(self.folder)

    def test_json_is_flattened_by_key_and_number(self):
        fields = self.write(a__json='{"x": 1, "list": [{"y": "z"}]}')
        self.assertEqual(fields, {"a.x": 1, "a.list.0.y": "z"})

    def test_a_heading_over_json_is_left_out(self):
        self.assertEqual(self.write(a__json='NVMe Identify:\n{"x": 1}'), {"a.x": 1})

    def test_what_should_be_json_and_is_not_is_one_field(self):
        self.assertEqual(self.write(a__json="{ oh"), {"a": "{ oh"})

    def test_text_is_taken_by_its_keys_and_else_by_its_lines(self):
        fields = self.write(a__txt="nsze    : 0x10\nSuccess\n")
        self.assertEqual(fields, {"a.nsze": "0x10", "a.1": "Success"})

    def test_a_status_is_its_code_and_its_name(self):
        text = "NVMe status: Invalid Field in Command: A reserved value in a field(0x4002)\n"
        self.assertEqual(self.write(a__txt=text), {"a.status code": "0x4002 Invalid Field in Command"})

    def test_a_dump_of_bytes_is_one_field(self):
        text = "heading\n     0  1\n0000: 01 02 \"..\"\n0010: 03 04 \"..\"\n"
        self.assertEqual(self.write(a__txt=text), {"a.bytes": "01 02 03 04"})

    def test_names_of_devices_are_no_difference(self):
        self.assertEqual(self.write(a__txt="state of nvme7n1\n", b__json='{"nvme1": {"x": "nvme1"}}'),
                         {"a.0": "state of nvme", "b.nvme.x": "nvme"})

    def test_other_files_are_left_alone(self):
        self.assertEqual(self.write(dmesg__out="x", a__status="1\n"), {"a.status": "1"})


class CompareTest(unittest.TestCase):
    def test_the_first_pattern_that_matches_explains(self):
        differences, unused = nvme_compare.compare(
            {"a.x": 1, "a.y": 1, "same": 0}, {"a.x": 2, "b": 3, "same": 0},
            [("a.*", "2", "two"), ("a.*", "*", "why"), ("c", "*", "never")])
        self.assertEqual(differences, [("a.x", 1, 2, "two"), ("a.y", 1, None, "why"), ("b", None, 3, None)])
        self.assertEqual(unused, [("c", "*")])

    def run_main(self, explanation, ours):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "differences").write_text(f"# a heading\n\n{explanation}\n")
            for name, extra in (("reference", "1"), ("ours", ours)):
                (folder / name).mkdir()
                fields = ", ".join(f'"k{number}": 0' for number in range(200))
                (folder / name / "a.json").write_text(f'{{{fields}, "extra": {extra}}}')
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                status = nvme_compare.main([str(folder / name) for name in ("differences", "reference", "ours")])
            return status, output.getvalue()

    def test_an_explained_difference_is_printed_and_passes(self):
        status, output = self.run_main("a.extra: it is ours", "2")
        self.assertEqual(status, 0)
        self.assertIn("a.extra: 1 | 2  (it is ours)", output)

    def test_another_value_than_the_one_explained_fails(self):
        self.assertEqual(self.run_main("a.extra = 2: it is ours", "2")[0], 0)
        status, output = self.run_main("a.extra = 3: it is ours", "2")
        self.assertEqual(status, 1)
        self.assertIn("NOT EXPLAINED: a.extra: 1 | 2", output)

    def test_a_field_that_is_missing_is_told_by_a_dash(self):
        explanations = [("x", "-", "not there")]
        self.assertEqual(nvme_compare.compare({"x": 1}, {}, explanations)[0], [("x", 1, None, "not there")])

    def test_a_difference_without_an_explanation_fails(self):
        status, output = self.run_main("a.other: something else", "2")
        self.assertEqual(status, 1)
        self.assertIn("NOT EXPLAINED: a.extra: 1 | 2", output)
        self.assertIn("no longer a difference: a.other = *", output)

    def test_no_difference_passes(self):
        self.assertEqual(self.run_main("a.other: something else", "1")[0], 0)

    def test_a_line_without_an_explanation_is_an_error(self):
        with self.assertRaises(ValueError):
            self.run_main("a.extra", "2")


if __name__ == "__main__":
    unittest.main()
