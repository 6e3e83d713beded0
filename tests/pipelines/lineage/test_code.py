"""What code ran: the same for the same sources, and said where it differs."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lineage import code as lineage_code
from pipelines.lineage.code import code_differences, digest_of, environment_differences
from tests.pipelines.lineage.records import a_code, an_environment

paths = st.text("abc/", min_size=1, max_size=6).filter(
    lambda path: not path.startswith("/") and not path.endswith("/") and "//" not in path
)
trees = st.dictionaries(paths, st.binary(max_size=20), min_size=1, max_size=4)


def written(root, tree):
    """The files of a tree, or None where a file would be a folder too."""
    shutil.rmtree(root, ignore_errors=True)
    for path, content in tree.items():
        if any(other.startswith(f"{path}/") for other in tree):
            return None
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return [root / path for path in tree]


@settings(max_examples=60)
@given(one=trees, other=trees, order=st.randoms())
def test_a_digest_is_of_the_files_and_of_nothing_else(tmp_path_factory, one, other, order):
    root = tmp_path_factory.getbasetemp() / "trees"
    files = written(root, one)
    if files is None:
        return
    first = digest_of(files, root)
    order.shuffle(files)
    assert digest_of(files, root) == first

    files = written(root, other)
    if files is not None:
        assert (digest_of(files, root) == first) == (one == other)


def test_this_process_s_code_and_environment_are_told():
    found = lineage_code.code()

    assert len(found.source_sha256) == 64
    assert found.version in found.named()
    assert "requirements.lock" in found.locks
    assert lineage_code.environment().packages["pydantic"]


def test_without_git_the_sources_stand_for_the_commit(monkeypatch, tmp_path):
    with_git = lineage_code.code()
    monkeypatch.setenv("PATH", str(tmp_path))
    lineage_code.code.cache_clear()
    try:
        found = lineage_code.code()
    finally:
        lineage_code.code.cache_clear()

    assert (found.commit, found.dirty) == (None, None)
    assert found.source_sha256 == with_git.source_sha256
    assert found.source_sha256[:12] in found.named()


def test_the_same_code_and_environment_differ_in_nothing():
    assert code_differences(a_code(), a_code()) == ()
    assert environment_differences(an_environment(), an_environment()) == ()


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"source_sha256": "f" * 64, "dirty": True}, "with uncommitted changes"),
        (
            {"locks": {"requirements.lock": "9" * 64}},
            "requirements.lock: 888888888888 then, 999999999999 now",
        ),
        ({"locks": {}}, "requirements.lock: 888888888888 then, none now"),
    ],
)
def test_what_of_the_code_differs_is_named(now, told):
    (line,) = code_differences(a_code(), a_code(**now))
    assert told in line


def test_another_commit_of_the_same_sources_is_the_same_code():
    assert code_differences(a_code(), a_code(commit="1" * 40)) == ()


def test_what_of_the_environment_differs_is_named_and_counted():
    many = {f"package{number:02}": "1" for number in range(30)}
    now = an_environment(python="3.12.0", packages=many, threads={"OMP_NUM_THREADS": "1"})

    told = environment_differences(an_environment(), now, shown=5)

    assert told[0] == "Python: 3.11.7 then, 3.12.0 now"
    assert any(line.startswith("threads: not set then") for line in told)
    assert "package lightgbm: 4.7.0 then, not installed now" in told
    assert told[-1] == "and 27 more packages"
