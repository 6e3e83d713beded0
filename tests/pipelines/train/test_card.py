"""What MLflow's pages say of a model: whole, readable there, and within what MLflow takes."""

from __future__ import annotations

import pytest

from models.catalogue import CATALOGUE
from pipelines.references import SnapshotRef, StudyRef
from pipelines.train import card


@pytest.mark.parametrize("model", CATALOGUE)
def test_a_model_is_described_with_its_card_and_how_it_is_moved_by_hand(model: str) -> None:
    spec = CATALOGUE[model]
    told = card.of_model(spec, f"{model}-elsewhere", "http://airflow")
    assert len(told) <= 5000
    assert told.startswith(f"**{spec.question}**")
    assert f"http://airflow/dags/train_{model}" in told
    assert f"headrace history {model}-elsewhere" in told
    whole = card.card(spec)
    assert whole is not None
    assert "](../" not in whole, "a link into the source tree leads nowhere from MLflow"
    assert whole[:200] in told


def test_paragraphs_are_one_line_and_code_and_tables_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    text = (
        "# A\n\none\ntwo [x](../y.md)\n\n| a |\n|---|\n| b |\n\n- item\n  goes on\n\n```sh\na\nb\n```\nend\n"
    )
    folder = tmp_path / "failure"  # type: ignore[operator]
    folder.mkdir()
    (folder / "README.md").write_text(text)
    monkeypatch.setattr(card, "files", lambda package: tmp_path)
    assert card.card(CATALOGUE["failure"]) == (
        "# A\n\none two x\n\n| a |\n|---|\n| b |\n\n- item goes on\n\n```sh\na\nb\n```\nend"
    )


def test_a_run_that_is_not_judged_says_so_and_leads_to_airflow() -> None:
    snapshot = SnapshotRef(
        model="m", source="s", sha256="a" * 64, url="u", rows={"train": 12_345}, positives={}
    )
    study = StudyRef(model="m", study="s", trials=3, best_value=0.5, best_params={}, run_id="r")
    told = card.of_run("m", "4", snapshot, study, "http://airflow/dags/train_m/runs/x")
    assert "not judged yet" in told
    assert "train 12,345" in told
    assert "(http://airflow/dags/train_m/runs/x)" in told
    assert "Airflow" not in card.of_run("m", "4", snapshot, study, "")


@pytest.mark.integration
def test_a_description_is_brought_up_to_date_until_a_person_writes_one(mlflow_server: str) -> None:
    from pipelines.adapters.registry import Registry

    spec = CATALOGUE["failure"]
    newer = spec.model_copy(update={"question": "Will it fail soon?"})
    name = "described for test_card"

    def told() -> str:
        found = registry.registered_model(name)
        assert found is not None
        return found.description

    with Registry(mlflow_server) as registry:
        card.describe(registry, spec, name, "http://airflow")
        assert told() == card.of_model(spec, name, "http://airflow")
        card.describe(registry, newer, name, "http://airflow")
        assert told() == card.of_model(newer, name, "http://airflow")
        registry.set_model_description(name, "Ask Anna before you move this.")
        card.describe(registry, spec, name, "http://airflow")
        assert told() == "Ask Anna before you move this."
