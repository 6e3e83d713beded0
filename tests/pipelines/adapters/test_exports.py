"""An export is loaded only if every byte and every stored prediction is as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.manifest import MANIFEST_FILE, SAMPLE_FILE, SIGNATURE_FILE, Manifest, ServingParts
from pipelines.adapters.exports import find_export, load_export, manifest_sha256, open_export, write_export
from pipelines.errors import ArtifactError


@pytest.fixture
def export(make_export: Callable[..., Path], tmp_path: Path) -> Path:
    return make_export(tmp_path / "export")


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_sample(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the sample and makes the manifest vouch for it."""
    content = json.loads((folder / SAMPLE_FILE).read_text())
    change(content)
    (folder / SAMPLE_FILE).write_text(json.dumps(content))
    sha256 = hashlib.sha256((folder / SAMPLE_FILE).read_bytes()).hexdigest()
    change_manifest(folder, lambda manifest: manifest["files"].update({SAMPLE_FILE: sha256}))


def test_a_sound_export_loads_and_can_be_checked_again(export: Path) -> None:
    opened = open_export(export, manifest_sha256(export))
    opened.check()
    assert opened.predictor.manifest.model == "tiny"
    assert {path.name for path in export.iterdir()} == {
        MANIFEST_FILE,
        SIGNATURE_FILE,
        SAMPLE_FILE,
        "model.txt",
    }


def test_the_same_export_has_the_same_digest(make_export: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make_export(tmp_path / "a"), make_export(tmp_path / "b")
    assert manifest_sha256(first) == manifest_sha256(second)
    assert manifest_sha256(first) != manifest_sha256(make_export(tmp_path / "c", slope=2.0))


def test_a_changed_manifest_is_found_by_the_digest_of_the_registry(export: Path) -> None:
    digest = manifest_sha256(export)
    change_manifest(export, lambda manifest: manifest["head"].update(alarm_threshold=0.4))
    with pytest.raises(ArtifactError, match="changed after it was registered"):
        load_export(export, digest)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_changed_byte_of_any_file_is_ever_loaded(
    make_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = make_export(tmp_path_factory.mktemp("export") / "export")
    digest = manifest_sha256(folder)
    path = folder / data.draw(st.sampled_from([MANIFEST_FILE, SAMPLE_FILE, "model.txt"]))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        load_export(folder, digest)


def test_a_truncated_file_is_refused_by_name(export: Path) -> None:
    content = (export / "model.txt").read_bytes()
    (export / "model.txt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"model\.txt.*incomplete"):
        load_export(export)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.txt").unlink(), "lacks.*model.txt"),
        (lambda folder: (folder / "more.bin").write_bytes(b"x"), "does not name"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "no readable manifest"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("{"), "refused"),
        (lambda folder: change_manifest(folder, lambda m: m.update(surprise=1)), "surprise"),
        (lambda folder: change_manifest(folder, lambda m: m.update(format=1)), "format"),
        (
            lambda folder: change_manifest(folder, lambda m: m["estimators"][0].update(runtime="pickle")),
            "runtime",
        ),
        (
            lambda folder: change_manifest(folder, lambda m: m["estimators"][0].update(inputs=["heat"])),
            "no inputs",
        ),
        (lambda folder: change_manifest(folder, lambda m: m["estimators"][0].update(file="x")), "lack x"),
        (
            lambda folder: change_manifest(folder, lambda m: m["files"].update({"../x": "0" * 64})),
            "plain name",
        ),
        (
            lambda folder: change_manifest(folder, lambda m: m["files"].update({"/etc/x": "0" * 64})),
            "plain name",
        ),
        (lambda folder: change_manifest(folder, lambda m: m["files"].pop(SAMPLE_FILE)), "lack sample.json"),
        (lambda folder: change_manifest(folder, lambda m: m["inputs"].append(m["inputs"][0])), "twice"),
        (
            lambda folder: change_manifest(folder, lambda m: m["estimators"][0]["inputs"].reverse()),
            "feature_name",
        ),
        (lambda folder: change_manifest(folder, lambda m: m["outputs"].pop()), "outputs"),
        (lambda folder: change_manifest(folder, lambda m: m["head"].update(slope=1.1)), "now.*then"),
    ],
)
def test_damage_is_refused_in_words(export: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(export)
    with pytest.raises(ArtifactError, match=said):
        load_export(export)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sample: sample["predictions"][1].update(probability=0.5), "row 1, probability"),
        (lambda sample: sample["predictions"][2].update(alarm=False), "row 2, alarm"),
        (lambda sample: sample["predictions"].pop(), "2 predictions"),
        (
            lambda sample: [prediction.pop("alarm") for prediction in sample["predictions"]],
            "lacks predictions",
        ),
        (lambda sample: sample["rows"][0].update(cpu="much"), "does not fit"),
    ],
)
def test_a_sample_that_is_not_reproduced_is_refused(
    export: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    change_sample(export, change)
    with pytest.raises(ArtifactError, match=said):
        load_export(export)


def test_an_alarm_may_flip_where_the_probability_is_at_the_threshold(export: Path) -> None:
    sample = json.loads((export / SAMPLE_FILE).read_text())
    threshold = sample["predictions"][1]["probability"] + 1e-12
    change_manifest(export, lambda manifest: manifest["head"].update(alarm_threshold=threshold))
    change_sample(export, lambda content: content["predictions"][1].update(alarm=True))
    load_export(export)


def test_a_symbolic_link_is_no_file_of_an_export(export: Path, tmp_path: Path) -> None:
    shutil.move(export / "model.txt", tmp_path / "elsewhere.txt")
    (export / "model.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(ArtifactError, match="not a regular file"):
        load_export(export)


def test_writing_leaves_what_was_there_unless_the_new_export_proves_sound(export: Path) -> None:
    digest = manifest_sha256(export)
    opened = open_export(export)
    manifest = opened.predictor.manifest
    wrong = opened.sample.model_copy(
        update={"predictions": tuple({"probability": 0.5, "alarm": True} for _ in opened.sample.rows)}
    )

    def save(folder: Path) -> ServingParts:
        shutil.copy(export / "model.txt", folder / "model.txt")
        return ServingParts(manifest.estimators, manifest.head, manifest.tolerance)

    with pytest.raises(ArtifactError, match="not those of training time"):
        write_export(export, save, model="tiny", inputs=manifest.inputs, sample=wrong, lineage={})
    assert manifest_sha256(export) == digest
    assert [path.name for path in export.parent.iterdir()] == [export.name]


def test_the_export_is_found_inside_a_downloaded_model(export: Path, tmp_path: Path) -> None:
    inside = tmp_path / "download" / "data" / "export"
    shutil.copytree(export, inside)
    assert find_export(tmp_path / "download") == inside
    shutil.copytree(export, tmp_path / "download" / "second")
    with pytest.raises(ArtifactError, match="2 files"):
        find_export(tmp_path / "download")


def test_a_manifest_survives_its_own_json(export: Path) -> None:
    content = (export / MANIFEST_FILE).read_text()
    manifest = Manifest.model_validate_json(content)
    assert json.loads(content) == manifest.model_dump(mode="json")
    assert manifest.head.kind == "probability"
