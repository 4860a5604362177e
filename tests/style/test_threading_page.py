"""The safety arguments of docs/threading.md speak of code that exists (D1, D20, D21)."""

from __future__ import annotations

import re

from .conftest import ROOT

PAGE = (ROOT / "docs/threading.md").read_text()


def sources() -> dict[str, str]:
    files = [*(ROOT / "cpp").rglob("*.h"), *(ROOT / "cpp").rglob("*.cc")]
    files += [*(ROOT / "bindings").glob("*.h"), *(ROOT / "bindings").glob("*.cc")]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}


def test_every_shared_type_stands_where_the_table_says() -> None:
    known = sources()
    n_checked = 0
    for row in PAGE.splitlines():
        cells = row.split("|")
        places = re.findall(r"`((?:cpp|bindings)/[^`]+)`", cells[2]) if len(cells) > 5 else []
        for place in places:
            assert (ROOT / place).exists(), f"{place} does not exist"
        text = "".join(t for name, t in known.items() if name.startswith(tuple(places)))
        for name in re.findall(r"`(\w+)`", cells[1]) if places else []:
            assert re.search(rf"\b(class|struct) {name}\b", text), f"no {name} in {places}"
            n_checked += 1
    assert n_checked >= 20


def test_every_weaker_order_is_explained() -> None:
    explained = {
        "cpp/src/base/gang.cc": "Gang::State::ticket",
        "cpp/src/base/cancellation.cc": "CancellationToken::State::reason",
        "cpp/src/base/per_process.h": "per_process()",
        "cpp/src/engine/token_channel.h": "TokenChannel::is_ended_",
        "cpp/src/model/panel_shares.h": "PanelShares::Range::next",
        "cpp/src/model/worker_shares.h": "WorkerShares::List::next",
    }
    weak = {
        name
        for name, text in sources().items()
        if re.search(r"memory_order_(relaxed|acquire|release|acq_rel|consume)", text)
    }
    assert weak == set(explained)
    for name in explained.values():
        assert f"`{name}" in PAGE, name


def test_every_mutex_is_a_leaf_or_names_its_rank() -> None:
    ranked = [
        (name, rank)
        for name, text in sources().items()
        for rank in re.findall(r"Mutex \w+\{LockRank::(\w+)\}", text)
    ]
    assert ranked == [("cpp/src/engine/text_session.h", "kSession")]
    assert "`TextSession::mutex_`" in PAGE
    bare = [n for n, t in sources().items() if re.search(r"std::(recursive_|shared_)?mutex\b", t)]
    known = ["bindings/engine.cc", "cpp/src/base/cancellation.cc", "cpp/src/base/mutex.h"]
    assert sorted(bare) == known
