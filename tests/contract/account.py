"""What an account owes: every tensor of the file once, every module once, and a finding for each thing left out."""

from __future__ import annotations

from studio.core.adapter import Adapter
from studio.formats.containers.bundle import Bundle


def check_account(adapter: Adapter, bundle: Bundle) -> None:
    """Hold an opened adapter to its account."""
    account = adapter.account()
    assert [row.key for row in account.tensors] == list(bundle.keys)
    for row in account.tensors:
        assert (row.fate == "module") == bool(row.modules), row
        assert set(row.modules) <= adapter.modules.keys(), row
        assert (row.fate == "left out") == bool(row.why), row
        if row.fate == "left out":
            level = "note" if row.is_harmless else "warn"
            assert any(row.why in f.text and f.level == level for f in adapter.findings), row
    extras = {row.key for row in account.tensors if row.fate == "extra"}
    assert extras == {tensor.key for tensor in adapter.extras.values()}
    if extras:
        assert any(next(iter(adapter.extras)) in f.text and f.level == "warn" for f in adapter.findings)
    assert [row.module for row in account.scalings] == list(adapter.modules)
    used = {name for row in account.tensors for name in row.modules}
    assert used == adapter.modules.keys()
    for scaling in account.scalings:
        assert scaling.source.text
        assert scaling.source.text != "made here"
        if scaling.source.is_default:
            assert any(scaling.source.text in f.text and f.level == "warn" for f in adapter.findings)
