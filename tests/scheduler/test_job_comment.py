"""A job's comment says which run directory's it is, and what it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.core.run_dir import RunDir
from emobench.scheduler.job_comment import JobComment, read_comment
from emobench.store.jobs import JobKind

RUN_DIR = RunDir(Path("/scratch/me/my 'runs' Ü/study"))


@pytest.mark.parametrize(
    "comment",
    [
        JobComment(JobKind.SERVER, "user"),
        JobComment(JobKind.SERVER, "assistant_qwen3-4b.v1+12", takes_over="123"),
        JobComment(JobKind.ARRAY, "qwen3-4b_2"),
        JobComment(JobKind.CLEANUP, "cleanup"),
        JobComment(JobKind.CELL, "qwen3-4b"),
    ],
)
def test_a_comment_is_read_as_it_was_written(comment: JobComment) -> None:
    text = comment.write(RUN_DIR, "study, emobench 000000000000 server user: Qwen/Qwen3")
    assert read_comment(text, RUN_DIR) == comment
    assert read_comment(text, RunDir(RUN_DIR.path.with_name("other"))) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(null)",
        f"emobench {RUN_DIR.identity} server user",
        f"my emobench {RUN_DIR.identity} server user: x",
        f"emobench {RUN_DIR.identity} model user: x",
        "emobench study user server Qwen/Qwen3-32B",
    ],
)
def test_other_comments_are_none_of_ours(text: str) -> None:
    assert read_comment(text, RUN_DIR) is None
