"""The one line that a wrong configuration gets, and how one is laid over another."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator, model_validator

from stepsearch.config import Config, merge, parse
from stepsearch.errors import UserError


class Cat(Config):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1, lt=10)
    fur: float = Field(0.5, gt=0, le=1)

    @field_validator("fur")
    @classmethod
    def _not_half_bald(cls, fur: float) -> float:
        if fur == 0.25:
            raise ValueError(f"cat.fur must not be a quarter, got {fur}")
        return fur

    @model_validator(mode="after")
    def _furry_if_old(self) -> "Cat":
        if self.lives == 1 and self.fur > 0.5:
            raise ValueError(f"fur must be at most 0.5 in the last life, got {self.fur}")
        if self.lives == 2:
            raise ValueError("two lives are unheard of")
        return self


class Dog(Config):
    kind: Literal["dog"] = "dog"
    tricks: tuple[str, ...] = Field((), max_length=2)


class House(Config):
    name: str = Field("home", min_length=1, max_length=8, pattern="^[a-z]*$")
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    cats: tuple[Cat, ...] = ()
    size: tuple[float, float] = (1, 2)
    rooms: tuple[str, ...] = Field(("attic",), min_length=1)
    heated: bool = False
    roof: Literal["flat", "steep"] = "flat"
    path: Path | None = None
    rent: dict[str, float] | None = None
    year: int | None = Field(None, ge=1000, le=3000)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"nmae": "x"}, "nmae is not a known key; did you mean 'name'? (known keys: cats, heated, "
         "name, path, pet, rent, roof, rooms, size, year)"),
        ({"pet": {"kind": "dog", "lives": 1}},
         "pet.lives is not a known key (known keys: kind, tricks)"),
        ({"cats": [{}, {"live": 1}]},
         "cats[1].live is not a known key; did you mean 'lives'? (known keys: fur, kind, lives)"),
        ({"name": 3}, "name must be a string, got 3"),
        ({"name": ""}, "name must be a string of 1 or more characters, got ''"),
        ({"name": "abcdefghi"}, "name must be a string of 8 or fewer characters, got 'abcdefghi'"),
        ({"name": "A"}, "name must be a string that matches ^[a-z]*$, got 'A'"),
        ({"pet": "cat"}, "pet must be a mapping, got 'cat'"),
        ({"pet": {}}, "pet.kind is required"),
        ({"pet": {"kind": "fish"}}, "pet.kind must be one of 'cat', 'dog', got 'fish'"),
        ({"pet": {"kind": "cat", "lives": 0}}, "pet.lives must be at least 1, got 0"),
        ({"pet": {"kind": "cat", "lives": 10}}, "pet.lives must be less than 10, got 10"),
        ({"pet": {"kind": "cat", "lives": 1.5}}, "pet.lives must be an integer, got 1.5"),
        ({"pet": {"kind": "cat", "lives": "x"}}, "pet.lives must be an integer, got 'x'"),
        ({"pet": {"kind": "cat", "fur": 0}}, "pet.fur must be greater than 0, got 0"),
        ({"pet": {"kind": "cat", "fur": 1.5}}, "pet.fur must be at most 1, got 1.5"),
        ({"pet": {"kind": "cat", "fur": "x"}}, "pet.fur must be a number, got 'x'"),
        ({"pet": {"kind": "cat", "fur": float("inf")}},
         "pet.fur must be a finite number, got inf"),
        ({"pet": {"kind": "cat", "fur": 0.25}}, "pet.fur must not be a quarter, got 0.25"),
        ({"pet": {"kind": "cat", "lives": 1, "fur": 0.6}},
         "pet.fur must be at most 0.5 in the last life, got 0.6"),
        ({"pet": {"kind": "cat", "lives": 2}}, "pet: two lives are unheard of"),
        ({"pet": {"kind": "dog", "tricks": "sit"}}, "pet.tricks must be a list, got 'sit'"),
        ({"pet": {"kind": "dog", "tricks": ["a", 2]}}, "pet.tricks[1] must be a string, got 2"),
        ({"pet": {"kind": "dog", "tricks": ["a", "b", "c"]}},
         "pet.tricks must be a list of 2 or fewer, got ['a', 'b', 'c']"),
        ({"cats": [{}, {"lives": 0}]}, "cats[1].lives must be at least 1, got 0"),
        ({"size": [1]}, "size[1] is required"),
        ({"size": [1, "x"]}, "size[1] must be a number, got 'x'"),
        ({"rooms": []}, "rooms must be a list of 1 or more, got []"),
        ({"heated": "perhaps"}, "heated must be true or false, got 'perhaps'"),
        ({"roof": "round"}, "roof must be one of 'flat' or 'steep', got 'round'"),
        ({"path": 3}, "path must be a path, got 3"),
        ({"rent": 3}, "rent must be a mapping, got 3"),
        ({"rent": {"may": "x"}}, "rent.may must be a number, got 'x'"),
        ({"year": 999}, "year must be at least 1000, got 999"),
        ({"year": 3001}, "year must be at most 3000, got 3001"),
    ],
)  # fmt: skip
def test_a_wrong_value_gets_one_line_with_its_path_the_rule_and_the_value(data, line):
    with pytest.raises(UserError) as caught:
        parse(House, data)
    assert str(caught.value) == line


def test_the_path_begins_with_where_the_data_come_from():
    for data, line in [
        ({"year": 1}, "house.year must be at least 1000, got 1"),
        ("x", "house must be a mapping, got 'x'"),
    ]:
        with pytest.raises(UserError) as caught:
            parse(House, data, where="house")
        assert str(caught.value) == line


def test_a_validators_own_field_name_becomes_the_whole_path_at_the_top_too():
    with pytest.raises(UserError, match=r"^fur must be at most 0.5 in the last life, got 1.0$"):
        parse(Cat, {"lives": 1, "fur": 1})


def test_a_user_error_hides_what_pydantic_said():
    with pytest.raises(UserError) as caught:
        parse(House, {"year": 1})
    assert caught.value.__suppress_context__


def test_values_that_fit_are_converted_and_cannot_be_changed():
    house = parse(House, {"size": ["1e-3", 2], "pet": {"kind": "dog"}})
    assert house.size == (0.001, 2.0)
    assert house.pet == Dog()
    with pytest.raises(ValidationError, match="frozen"):
        house.name = "other"  # type: ignore[misc]


def test_merge_lays_changes_over_a_copy():
    base: dict[str, Any] = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge(base, {"a": {"y": 4}, "c": 5}) == {"a": {"x": 1, "y": 4}, "b": 3, "c": 5}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


def test_merge_replaces_a_mapping_of_another_kind():
    base = {"pet": {"kind": "cat", "lives": 3}}
    assert merge(base, {"pet": {"kind": "dog"}}) == {"pet": {"kind": "dog"}}
    assert merge(base, {"pet": {"kind": "cat", "fur": 1}}) == {
        "pet": {"kind": "cat", "lives": 3, "fur": 1}
    }
