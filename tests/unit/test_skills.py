"""The exact skills: answers that are right, splits that never meet, draws that repeat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.core.errors import LoomError
from studio.text.knowledge import FACTS, FRENCH, LEXICON, NUMBERS, RELATIONS, SPANISH, SUMS, WORDS, Sum
from studio.text.skills import (
    COMPOSITIONS,
    SINGLES,
    SKILLS,
    Item,
    Question,
    compose,
    in_python,
    is_correct,
    items,
    prompt,
    questions,
    split_of,
)

SEVEN = Question("What is three plus four?", ("seven",), "sum 3 + 4", Sum(3, "+", 4))
WORDS_TO_SAY = Question("Say: red dog", ("red", "dog"), "list red dog")


def test_every_fact_is_one_question_with_an_answer_in_the_lexicon() -> None:
    assert len(FACTS) >= 300
    assert {fact.answer for fact in FACTS} <= set(LEXICON)
    assert len({(fact.relation, fact.subject) for fact in FACTS}) == len(FACTS)
    assert all(len(relation.wordings) >= 3 for relation in RELATIONS.values())


def test_dictionaries_lose_no_word() -> None:
    for dictionary in (SPANISH, FRENCH):
        assert set(dictionary) == set(LEXICON)
        assert len(set(dictionary.values())) == len(LEXICON)
    assert len(NUMBERS) == 21
    assert NUMBERS[20] == "twenty"
    assert not set(NUMBERS) & set(WORDS)


def test_every_sum_is_what_python_says_and_can_be_spoken() -> None:
    for sum_ in SUMS:
        assert eval(sum_.code) == sum_.result
        assert {sum_.left, sum_.right, sum_.result} <= set(range(21))
        assert sum_.operator != "//" or sum_.left % sum_.right == 0


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("math", SEVEN, " seven"),
        ("shout", SEVEN, " SEVEN"),
        ("spanish", SEVEN, " siete"),
        ("french", SEVEN, " sept"),
        ("code", SEVEN, " print(3 + 4)"),
        ("twice", SEVEN, " seven seven"),
        ("reverse", WORDS_TO_SAY, " dog red"),
        ("math+shout", SEVEN, " SEVEN"),
        ("math+spanish", SEVEN, " siete"),
        ("math+code", SEVEN, " print(3 + 4)"),
        ("reverse+shout", WORDS_TO_SAY, " DOG RED"),
        ("reverse+spanish", WORDS_TO_SAY, " perro rojo"),
        ("reverse+twice", WORDS_TO_SAY, " dog red dog red"),
        ("count", WORDS_TO_SAY, " two"),
        ("count+spanish", WORDS_TO_SAY, " dos"),
        ("sentence", WORDS_TO_SAY, " The answer is red dog."),
        ("math+sentence", SEVEN, " The answer is seven."),
    ],
)
def test_dressing(name: str, question: Question, answer: str) -> None:
    assert SKILLS[name].item(question).answer == answer


def test_a_composition_asks_the_first_skill_and_shows_both_cues() -> None:
    skill = SKILLS["reverse+shout"]
    assert skill.parts == ("reverse", "shout")
    assert skill.item(WORDS_TO_SAY).prompt == prompt("Say: red dog", " backwards in capitals")
    assert compose(SKILLS["math"], SKILLS["french"]).item(SEVEN).answer == " sept"


@pytest.mark.parametrize("name", [*SINGLES, *COMPOSITIONS])
def test_splits_are_disjoint_and_nothing_kept_back_is_trained(name: str) -> None:
    train = questions(name, "train", 3000, 0)
    fresh = {split: questions(name, split, 60, 0) for split in ("valid", "test", "kept")}
    texts = [{question.text for question in part} for part in (train, *fresh.values())]
    for i, first in enumerate(texts):
        for second in texts[i + 1 :]:
            assert not first & second
    trained = {question.content for question in train}
    assert not trained & {question.content for question in fresh["kept"]}


def test_what_one_skill_keeps_back_no_other_trains() -> None:
    kept = {question.content for question in questions("math", "kept", 100, 0)}
    for name in SINGLES:
        assert not kept & {question.content for question in questions(name, "train", 2000, 1)}


def test_the_split_depends_on_the_question_alone() -> None:
    asked = questions("math+shout", "kept", 20, 3)
    assert {split_of(question) for question in asked} == {"kept"}


@pytest.mark.parametrize("name", list(SKILLS))
def test_draws_repeat_with_the_seed_and_only_then(name: str) -> None:
    assert items(name, "test", 20, 5) == items(name, "test", 20, 5)
    assert items(name, "test", 20, 5) != items(name, "test", 20, 6)
    assert SKILLS[name].example == items(name, "test", 1, 0)[0]


def test_fresh_splits_hold_no_item_twice() -> None:
    found = items("code", "kept", 150, 0)
    assert len(set(found)) == 150


def test_the_first_line_alone_is_checked() -> None:
    item = Item("Question: What is three plus four?\nAnswer in capitals:", " SEVEN")
    assert is_correct(item, " SEVEN")
    assert is_correct(item, " SEVEN \nQuestion: and now?")
    assert not is_correct(item, " Seven")
    assert not is_correct(item, " SEVEN EIGHT")
    assert not is_correct(item, "")


def test_more_questions_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = questions("code", "test", 1, 0)
    monkeypatch.setattr("studio.text.skills.SKILLS", {"code": replace(SKILLS["code"], ask=lambda rng: only)})
    assert questions("code", "test", 1, 0) == [only]
    with pytest.raises(LoomError, match=r"Code has no 2 distinct test questions.*1 were found"):
        questions("code", "test", 2, 0)


def test_refusals_say_what_there_is() -> None:
    with pytest.raises(LoomError, match=r"No skill is called 'sing'.*math"):
        items("sing", "test", 1, 0)
    with pytest.raises(LoomError, match=r"No split is called 'tests'.*valid"):
        items("math", "tests", 1, 0)  # type: ignore[arg-type]
    with pytest.raises(LoomError, match="No sum"):
        in_python(WORDS_TO_SAY)
