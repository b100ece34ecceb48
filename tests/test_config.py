import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from afterbase.config import Config, apply_overrides, build, explain, load, merged
from afterbase.errors import ConfigError
from afterbase.stages.pipeline import PipelineConfig
from afterbase.stages.registry import STAGES


class Cosine(Config):
    """Falls along a cosine."""

    kind: Literal["cosine"] = "cosine"
    floor: float = Field(0.2, ge=0, le=1)
    """Share of the peak that is left at the end."""


class Constant(Config):
    """Stays where it is."""

    kind: Literal["constant"] = "constant"
    warmup: int = 3
    """Steps until the peak."""


class Part(Config):
    """One part of a reward."""

    weight: float = 1.0
    """Factor."""
    note: str | None = None
    """For humans."""


Schedule = Annotated[Cosine | Constant, Field(discriminator="kind")]


class Toy(Config):
    """A toy recipe."""

    model: Path
    """Checkpoint directory."""
    rate: float = Field(5e-6, gt=0)
    """alpha, the peak learning rate."""
    shuffle: bool = True
    """Whether the order is drawn anew each epoch."""
    stop: tuple[str, ...] = ("</a>", 'say "x"\n')
    """Strings that end an answer."""
    anything: dict[str, Any] = Field({"a": {"b": 1}, "odd key": [1, 2.5]})
    """Handed on."""
    schedule: Schedule = Cosine(floor=0.5)
    """How the rate moves."""
    untagged: Cosine | Constant = Constant()
    """The same without a discriminator."""
    sources: list[Schedule] = Field([Constant(warmup=4), Cosine()])
    """Some."""
    empty: list[Schedule] = Field([])
    """None."""
    parts: dict[str, list[Part]] = Field({"math": [Part(weight=2.0), Part(note="n")]})
    """By domain."""
    by_name: dict[str, Part] = Field({})
    """By name."""
    reference: Part | None = None
    """Maybe."""


def uncommented(text: str) -> str:
    return re.sub(r"(?m)^#(?=[^ #\n])", "", text)


def complaint(table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Toy, {"model": "m", **table}, "toy.toml")
    return str(caught.value)


def test_explained_recipe_uncommented_is_the_defaults():
    table = tomllib.loads(uncommented(explain(Toy)))
    assert build(Toy, {"model": "m", **table}, "explained") == Toy(model="m")
    assert set(table) == set(Toy.model_fields) - {"model", "empty", "by_name", "reference"}


def test_explained_recipe_as_printed_sets_nothing():
    assert tomllib.loads(explain(Toy)) == {}


def test_explain_tells_docstring_type_limits_and_what_is_required():
    text = explain(Toy)
    assert "# alpha, the peak learning rate. [number; > 0]\n#rate = 5e-06" in text
    assert "# Checkpoint directory. [path; REQUIRED]\n##model = ..." in text
    assert text.count("##[[empty]]") == 2, "each variant of a union once"


@pytest.mark.parametrize("name", [name for name in STAGES if find_spec(f"afterbase.stages.{name}")] + ["pipeline"])
def test_every_stage_explains_itself_and_loads_back(name: str):
    kind = PipelineConfig if name == "pipeline" else STAGES[name].config
    table = tomllib.loads(uncommented(explain(kind)))
    for key, value in table.items():
        before = kind.model_fields[key].get_default(call_default_factory=True)
        field = build_field(kind, key, value)
        assert field == before, f"{name}: {key} comes back as {field!r}"


def build_field(kind: type[Config], key: str, value: Any) -> Any:
    from pydantic import TypeAdapter

    field = kind.model_fields[key]
    kept = list(field.metadata) + ([Field(discriminator=field.discriminator)] if field.discriminator else [])
    annotation = Annotated[field.annotation, *kept] if kept else field.annotation
    return TypeAdapter(annotation).validate_python(value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"rat": 1}, "toy.toml: unknown key 'rat'; did you mean 'rate'?"),
        ({"schedule": {"kind": "cosine", "flor": 1}}, "unknown key 'schedule.flor'; did you mean 'floor'?"),
        ({"sources": [{"kind": "constant"}, {"kind": "cosine", "flor": 1}]}, "unknown key 'sources.1.flor'; did you mean 'floor'?"),
        ({"untagged": {"kind": "constant", "warm": 1}}, "unknown key 'untagged.warm'; did you mean 'warmup'?"),
        ({"parts": {"math": [{"wieght": 1}]}}, "unknown key 'parts.math.0.wieght'; did you mean 'weight'?"),
        ({"by_name": {"x": {"zzz": 1}}}, "unknown key 'by_name.x.zzz'; the choice is note, weight"),
        ({"floor": 0.1}, "unknown key 'floor'; did you mean 'schedule.floor'?"),
        ({"sources": [{"kind": "cosin"}]}, "'sources.0': 'cosin' is none of its kinds; did you mean 'cosine'?"),
        ({"sources": [{"floor": 0.1}]}, "'sources.0': needs a kind; the choice is constant, cosine"),
        ({"rate": "fast"}, "'rate': input should be a valid number, unable to parse string as a number (came: 'fast')"),
        ({"schedule": {"kind": "cosine", "floor": 3}}, "'schedule.floor': input should be less than or equal to 1 (came: 3)"),
    ],
)
def test_a_wrong_key_is_named_with_its_path_and_the_nearest_right_one(table: dict[str, Any], said: str):
    assert said in complaint(table)


def test_a_union_complains_about_the_variant_that_was_meant_only():
    assert complaint({"untagged": {"kind": "constant", "warm": 1}}).count("unknown key") == 1


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="'model' is required and missing"):
        build(Toy, {}, "toy.toml")


def test_overrides_are_toml_and_a_bare_word_is_text():
    overrides = ["a=true", "b=3", "c=5e-6", "d=[1, 2]", "e=runs/zero", 'f="3"', "g.h.i=x=y", "j="]
    expected = {"a": True, "b": 3, "c": 5e-6, "d": [1, 2], "e": "runs/zero", "f": "3", "g": {"h": {"i": "x=y"}}, "j": ""}
    assert apply_overrides({}, overrides) == expected


def test_overrides_leave_the_given_table_alone():
    table = {"a": {"b": 1}, "c": [{"d": 1}]}
    assert apply_overrides(table, ["a.b=2", "c.0.d=2"]) == {"a": {"b": 2}, "c": [{"d": 2}]}
    assert table == {"a": {"b": 1}, "c": [{"d": 1}]}


def test_an_override_of_kind_replaces_its_table_whatever_the_order():
    table = {"schedule": {"kind": "cosine", "floor": 0.1}}
    for overrides in (["schedule.kind=constant", "schedule.warmup=9"], ["schedule.warmup=9", "schedule.kind=constant"]):
        assert apply_overrides(table, overrides) == {"schedule": {"kind": "constant", "warmup": 9}}
    assert apply_overrides(table, ["schedule.kind=cosine"]) == table, "the same kind replaces nothing"


@pytest.mark.parametrize("override", ["clip", "=3", "a..b=3", "rate.x=1", "list.7.x=1", "list.0=1"])
def test_an_impossible_override_is_quoted(override: str):
    with pytest.raises(ConfigError, match=re.escape(repr(override))):
        apply_overrides({"rate": 1, "list": [{"x": 1}]}, [override])


def test_merged_goes_table_by_table_but_another_kind_replaces():
    base = {"engine": {"rows": 8, "bytes": 1}, "schedule": {"kind": "cosine", "floor": 0.1}}
    over = {"engine": {"rows": 9}, "schedule": {"kind": "constant"}}
    assert merged(base, over) == {"engine": {"rows": 9, "bytes": 1}, "schedule": {"kind": "constant"}}


def test_load_reads_a_file_then_overrides(tmp_path: Path):
    recipe = tmp_path / "toy.toml"
    recipe.write_text('model = "m"\nrate = 1.0\n')
    assert load(Toy, recipe, ["rate=2"]) == Toy(model="m", rate=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no recipe at"), (b"a = b c", "not valid TOML"), (b"\xff\xfe", "cannot be read"), ("dir", "cannot be read")],
)
def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | str | None, said: str):
    recipe = tmp_path / "toy.toml"
    if content == "dir":
        recipe.mkdir()
    elif content is not None:
        recipe.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load(Toy, recipe, [])
    assert str(recipe) in str(caught.value)
