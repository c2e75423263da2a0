"""`phasewatch export`, into a file of one's own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from phasewatch.storage.database import Database
from phasewatch.storage.series import put_series
from tests.cli.conftest import Call
from tests.conftest import MakeRun


def test_a_run_becomes_a_file(phasewatch: Call, make_run: MakeRun, sqlite_database: Database, tmp_path: Path) -> None:
    run = make_run(name="mine")
    with sqlite_database.transaction() as session:
        put_series(session, run, {0: {"loss": 2.5}})
    tables, arrays = tmp_path / "run.zip", tmp_path / "run.npz"
    answer = phasewatch("export", "mine", "--out", str(tables))
    assert answer.status == 0
    assert answer.out == f"{tables}: {tables.stat().st_size:,} bytes\n"
    assert "series.parquet" in zipfile.ZipFile(tables).namelist()
    assert phasewatch("export", "mine", "--format", "npz", "--out", str(arrays)).status == 0
    with np.load(arrays, allow_pickle=False) as found:
        assert found["series/loss/values"].tolist() == [2.5]
    assert sorted(path.name for path in tmp_path.glob("*run*")) == ["run.npz", "run.zip"]


@pytest.mark.parametrize(("arguments", "words"), [(["mine"], "is there already"), (["yours"], "no run")])
def test_nothing_is_written_over_and_nothing_is_left_behind(
    phasewatch: Call, make_run: MakeRun, tmp_path: Path, arguments: list[str], words: str
) -> None:
    make_run(name="mine")
    out = tmp_path / f"{arguments[0]}.zip"
    if arguments == ["mine"]:
        out.write_text("own")
    answer = phasewatch("export", *arguments, "--out", str(out))
    assert (answer.status, answer.err.count("\n")) == (1, 1)
    assert words in answer.err
    assert [path.read_text() for path in tmp_path.glob("*.zip*")] == (["own"] if arguments == ["mine"] else [])
