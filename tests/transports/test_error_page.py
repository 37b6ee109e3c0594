"""docs/errors.md has a row for each error, as the tables of the code have it."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest

from inference_client.status import _BY_REASON
from inference_service.rpc import status
from rest_bridge.errors import TABLE

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
ROWS = {
    cells[0].split("`")[1]: (cells[1].strip(), int(cells[2]), cells[3].strip())
    for line in PAGE.splitlines()
    if line.startswith("| `") and (cells := line.strip("|").split("|"))
}
# The bridge answers request timeouts and unknown routes without the service.
BRIDGE_ALONE = {"REQUEST_TIMEOUT": 408, "ROUTE_NOT_FOUND": 404}


@pytest.mark.parametrize("row", [*status.TABLE.values(), status.INTERNAL], ids=lambda row: row.reason)
def test_each_error_has_its_row(row: status.Row) -> None:
    code, http, retry = ROWS[row.reason]

    assert code == row.code.name
    assert ("RetryInfo" in retry) is (row.details in (status._retry, status._quota))
    assert http == BRIDGE_ALONE.get(row.reason) or http == TABLE[_BY_REASON[row.reason]].status


def test_the_page_has_no_other_row() -> None:
    known = {row.reason for row in status.TABLE.values()} | {status.INTERNAL.reason}

    assert ROWS.keys() == known
    assert all(hasattr(grpc.StatusCode, code) for code, _, _ in ROWS.values())
    assert re.search(r"never repeat the request", PAGE)
