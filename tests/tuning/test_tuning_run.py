"""A whole tuning on a tiny model: it learns, goes on where it was, keeps the best weights, and tells what it did."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from relscope.errors import InputError
from relscope.models import TunableJudge, load_judge
from relscope.tuning import TuneConfig, Validated, tune
from relscope.tuning.questions import hold_out, read_questions
from relscope.tuning.run import _no_better
from relscope.tuning.training import Trainer
from tiny_study import Told

ConfigOf = Callable[..., TuneConfig]
WEIGHTS = "adapter_model.safetensors"
STEP = "relscope.tuning.training.Trainer.step"


class Killed(BaseException):
    """As if the process were gone: nothing is done about it."""


def interrupt(
    config: TuneConfig,
    folder: Path,
    where: str,
    when: Callable[..., bool],
    how: type[BaseException] = KeyboardInterrupt,
) -> None:
    """Tune until the function named `where` is called with arguments of which `when` says so."""
    owner, _, name = where.rpartition(".")
    target = pkgutil.resolve_name(owner)
    before = getattr(target, name)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            raise how
        return before(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, interrupted)
        with pytest.raises(how):
            tune(config, folder)


def at_once(*_: object, **__: object) -> bool:
    return True


def test_the_loss_on_what_it_is_trained_on_falls(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of(
        prompts="pointwise-dqi", optimisation={"epochs": 12, "questions_per_step": 4, "learning_rate": 0.02}
    )
    curve = tune(config, tmp_path / "a").curve
    assert curve[-1].train_loss < 0.75 * curve[0].train_loss


def test_the_same_configuration_gives_the_same_weights(config_of: ConfigOf, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tune(config_of(lora={"dropout": 0.1}), tmp_path / name)
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    tune(config_of(lora={"dropout": 0.1}, seed=1), tmp_path / "c")
    third = load_file(tmp_path / "c" / WEIGHTS)
    assert not all(torch.equal(first[key], third[key]) for key in first)


def test_an_interrupted_tuning_goes_on_as_if_it_had_not_been(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of(lora={"dropout": 0.1})
    whole = tune(config, tmp_path / "whole")

    def after_the_validation_at_step_2(trainer: Trainer, _rate: float) -> bool:
        return trainer.n_steps == 3

    interrupt(config, tmp_path / "cut", STEP, after_the_validation_at_step_2)
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    told = Told()
    # Patience decides when it ends, not what it learns, and may be another.
    patient = config.model_copy(update={"validation": config.validation.model_copy(update={"patience": 9})})
    resumed = tune(patient, tmp_path / "cut", told)
    assert resumed.curve == whole.curve
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert told.n_done == whole.curve[-1].step
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_tuning_goes_on_from_an_adapter(config_of: ConfigOf, tmp_path: Path) -> None:
    first = tune(config_of(lora={"rank": 3, "alpha": 6}), tmp_path / "first")
    best = min(point.loss for point in first.curve)
    # Steps too small to move anything: the first point of the new curve is where the adapter stood.
    still = {"epochs": 2, "questions_per_step": 2, "learning_rate": 1e-9}
    went_on = tune(config_of(adapter=str(tmp_path / "first"), optimisation=still), tmp_path / "more")
    assert went_on.curve[0].loss == pytest.approx(best, abs=1e-5)
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("first", "more"))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    config = json.loads((tmp_path / "more" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6)  # the adapter's, not the default of `lora`
    card = (tmp_path / "more" / "README.md").read_text()
    assert "(rank 3, alpha 6) that makes" in card
    assert f"gone on from `{tmp_path / 'first'}`" in card
    assert load_judge(tmp_path / "more", device="cpu").identity.adapter


def test_an_adapter_of_another_model_cannot_be_gone_on_from(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter '.*nowhere': there is no such folder"):
        tune(config_of(adapter=str(tmp_path / "nowhere")), tmp_path / "a")
    with pytest.raises(InputError, match="adapter 'smoljudge' cannot be loaded"):
        tune(config_of(adapter="smoljudge"), tmp_path / "b")


def test_a_damaged_checkpoint_is_told(config_of: ConfigOf, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged; delete the folder to start again"):
        tune(config_of(), tmp_path)


def test_an_interruption_while_weights_are_moved_keeps_the_checkpoint_before(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    calls: list[int] = []

    def in_the_fourth_update(_trainer: Trainer) -> bool:  # after two validations' worth of steps less one
        calls.append(1)
        return len(calls) == 4

    interrupt(config_of(), tmp_path / "cut", "relscope.tuning.training.Trainer._to_model", in_the_fourth_update)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["trainer"]["n_steps"] == 2


@pytest.mark.parametrize("where", ["relscope.tuning.run.validate", "relscope.models.TunableJudge.save"])
def test_an_interruption_while_validating_or_saving_changes_nothing(
    config_of: ConfigOf, tmp_path: Path, where: str
) -> None:
    whole = tune(config_of(), tmp_path / "whole")
    interrupt(config_of(), tmp_path / "cut", where, at_once)
    assert tune(config_of(), tmp_path / "cut").curve == whole.curve
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_tuning_killed_before_its_first_validation_can_go_on(config_of: ConfigOf, tmp_path: Path) -> None:
    interrupt(config_of(), tmp_path / "cut", STEP, at_once, Killed)
    assert tune(config_of(), tmp_path / "cut").curve == tune(config_of(), tmp_path / "whole").curve


def test_a_loss_that_is_no_number_ends_the_tuning(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relscope.tuning.training.Loss.of", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(InputError, match=r"not a number any more at step 1; lower optimisation\.learning_rate"):
        tune(config_of(), tmp_path / "a")


def test_a_caller_s_random_numbers_stay_its_own(config_of: ConfigOf, tmp_path: Path) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    tune(config_of(), tmp_path / "a")
    assert torch.equal(torch.rand(3), wanted)


def test_what_is_trained_on_is_not_evaluated_on(config_of: ConfigOf, tmp_path: Path, questions_file: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.data: 12 queries of .* are also trained on, such as"):
        tune(config_of(evaluation={"data": [str(questions_file)]}), tmp_path / "a")


def test_validation_questions_of_their_own_are_not_trained_on(
    config_of: ConfigOf, tmp_path: Path, questions_file: Path
) -> None:
    lines = questions_file.read_text(encoding="utf-8").splitlines()
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(lines[:4]) + "\n", encoding="utf-8")
    tune(config_of(validation={"data": str(own), "every": 2}), tmp_path / "a")
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert (card["n_trained"], card["n_held_out"]) == (8, 4)
    assert card["validation_data"][0]["name"] == "own.jsonl"


def test_an_adapter_is_no_base(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'smoljudge' is itself an adapter; give its base as the model, and it as"):
        tune(config_of(model="smoljudge"), tmp_path / "a")


def test_a_folder_of_another_tuning_is_refused(config_of: ConfigOf, tmp_path: Path) -> None:
    interrupt(config_of(), tmp_path / "a", STEP, at_once)
    with pytest.raises(InputError, match="unfinished tuning of another configuration"):
        tune(config_of(seed=5), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no unfinished tuning"):
        tune(config_of(), tmp_path / "b")


def test_the_kept_weights_are_those_of_the_lowest_held_out_loss(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.9, 0.4, 0.8, 0.7, 0.6, 0.5])
    seen: list[dict[str, torch.Tensor]] = []

    def validated(tunable: TunableJudge, *_: object) -> Validated:
        seen.append({name: p.clone() for name, p in tunable.judge.model.named_parameters() if p.requires_grad})
        return Validated(len(seen), 1.0, next(losses), 0.5, 0.5, 0.5, 0.9)

    monkeypatch.setattr("relscope.tuning.run.validate", validated)
    config = config_of(validation={"share": 0.3, "every": 1, "patience": 4})
    curve = tune(config, tmp_path / "a").curve
    assert len(curve) == 6  # the fourth in a row that is no better ends it
    kept = load_file(tmp_path / "a" / WEIGHTS)
    second = {name.replace(".default", ""): weight for name, weight in seen[1].items()}
    assert {name.removeprefix("base_model.model.") for name in kept} == set(second)
    assert all(torch.equal(weight, second[name.removeprefix("base_model.model.")]) for name, weight in kept.items())


def test_training_ends_after_so_many_validations_without_a_lower_loss() -> None:
    def point(loss: float) -> Validated:
        return Validated(1, 1.0, loss, 0.5, 0.5, 0.5, 0.9)

    assert not _no_better([], 2)
    assert not _no_better([point(1.0), point(1.1)], 2)
    assert _no_better([point(1.0), point(1.1), point(1.2)], 2)
    assert not _no_better([point(1.0), point(1.1), point(0.9)], 2)


def test_the_card_tells_data_settings_figures_and_versions(
    config_of: ConfigOf, tmp_path: Path, questions_file: Path, tiny_model_folder: Path
) -> None:
    data = {"data": str(questions_file), "licence": "CC0", "credit": "nobody"}
    config = config_of(data=[data], evaluation={"data": ["demo"], "pairs": 4})
    tuned = tune(config, tmp_path / "animals-judge")
    card = json.loads((tmp_path / "animals-judge" / "card.json").read_text())
    assert card["data"][0]["licence"] == "CC0"
    assert card["n_trained"] + card["n_held_out"] == 12
    assert card["validation"]["loss"] == min(point.loss for point in tuned.curve)
    assert card["curve"] == [point.as_dict() for point in tuned.curve]
    assert card["n_groups_refused"] == 0
    assert card["versions"]["torch"].startswith("2.")
    names = {(m["data"], m["prompt"], m["negatives"]) for m in card["evaluation"]["tuned"]}
    assert names == {("demo", p, n) for p in ("pointwise-dqi", "pairwise-dqi") for n in ("hard", "random", "both")}
    text = (tmp_path / "animals-judge" / "README.md").read_text()
    assert "| animals.jsonl | 12 | CC0 | nobody |" in text
    assert "# animals-judge" in text
    assert load_judge(tmp_path / "animals-judge", device="cpu").identity.name == str(tiny_model_folder)


def test_equal_queries_are_never_on_both_sides(questions_file: Path) -> None:
    questions, record = read_questions(str(questions_file), hard_negatives=2, depth=10, seed=0)
    assert record.n_questions == 12
    assert all(len(q.hard_negative_texts) == 2 for q in questions)
    train, held = hold_out(questions * 2, 0.3, 0)
    assert not {q.query_text for q in train} & {q.query_text for q in held}
    assert len(train) + len(held) == 24
    more_train, _ = hold_out(questions[:6], 0.3, 0)
    assert {q.query_text for q in more_train} <= {q.query_text for q in train}
    with pytest.raises(InputError, match=r"validation: a share of 0\.001"):
        hold_out(questions, 0.001, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": {"pointwise-iqd": 1}}, "'pointwise-iqd' does not exist"),
        ({"prompts": {"pointwise-dqi": 0}}, "the weight must be a number above 0"),
        ({"mix": {"hard": 0, "random": 0}}, "at least one negative"),
        ({"lora": {"rnak": 8}}, "unknown field 'lora.rnak': did you mean 'rank'"),
        ({"optimisation": {"epochs": 0}}, "optimisation.epochs"),
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_tuned_is_an_error_that_names_the_field(
    config_of: ConfigOf, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as error:
        tune(config_of(**fields), tmp_path / "a")
    assert message in str(error.value)
