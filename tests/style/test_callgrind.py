"""The gate against slower steps (B86) can fail, and knows every format."""

from __future__ import annotations

import json
import sys

from .conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "callgrind"))

import counts

BEFORE = {"Q4_1": {"prefill": 1_000, "decode": 100}}


def test_three_percent_more_fails() -> None:
    assert counts.compare(BEFORE, {"Q4_1": {"prefill": 1_030, "decode": 100}}) == []
    failures = counts.compare(BEFORE, {"Q4_1": {"prefill": 1_031, "decode": 100}})
    assert len(failures) == 1 and "Q4_1, prefill: +3.1 %" in failures[0]
    assert counts.compare(BEFORE, {"Q4_1": {"prefill": 500, "decode": 50}}) == []


def test_what_is_not_recorded_or_gone_fails() -> None:
    assert counts.compare({}, BEFORE) and counts.compare(BEFORE, {})


def test_every_format_is_recorded() -> None:
    text = (ROOT / "cpp/src/quant/formats.h").read_text()
    formats = text.partition("using Formats = FormatList<")[2].partition(">")[0]
    names = {name.strip() for name in formats.replace("\n", " ").split(",")}
    recorded = json.loads(counts.COUNTS.read_text(encoding="utf-8"))["instructions"]
    assert names and names <= set(recorded)
    assert set(recorded) == set(counts.SPECS)
