import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from afterbase.config import Config
from afterbase.errors import ConfigError, DataError
from afterbase.stages.graph import count_parameters
from afterbase.stages.pipeline import derived_seed, plan, read_pipeline, run_pipeline
from afterbase.stages.run import Lock, Run, StageKind

RECIPE = """
name = "toy"
directory = "{directory}"
seed = 5
[shared.grow]
steps = 2
[[stages]]
name = "base"
stage = "grow"
recipe = {{ word = "a" }}
[[stages]]
name = "zero"
stage = "grow"
recipe = {{ source = "{{base}}", word = "b", steps = 3 }}
[[stages]]
name = "other"
stage = "grow"
recipe = {{ word = "c" }}
[[stages]]
name = "count"
stage = "weigh"
recipe = {{ files = ["{{zero}}", "{{other:text.txt}}"] }}
"""


class GrowConfig(Config):
    """Writes a word some times after what it read."""

    word: str
    """What is written."""
    steps: int = 1
    """How often."""
    source: Path | None = None
    """What comes before."""
    seed: int
    """Stands in the text."""


class WeighConfig(Config):
    """Counts letters."""

    files: list[Path]
    """Of these."""


class House:
    """A registry of two small stages that remembers what ran; `stop` names a stage's word whose run is interrupted."""

    def __init__(self):
        self.ran: list[str] = []
        self.stop = ""
        self.stages = {
            "grow": StageKind(
                GrowConfig,
                self.grow,
                lambda config: {"source": config.source} if config.source else {},
                lambda config, directory: directory / "text.txt",
            ),
            "weigh": StageKind(
                WeighConfig,
                self.weigh,
                lambda config: {f"file {i}": path for i, path in enumerate(config.files)},
                lambda config, directory: directory / "letters.json",
                size=lambda config: {"files": len(config.files)},
                closing=lambda config, directory: [f"letters: {(directory / 'letters.json').read_text()}"],
            ),
        }

    def grow(self, config: GrowConfig, run: Run) -> None:
        self.ran.append(run.directory.name)
        before = config.source.read_text() if config.source else ""
        (run.directory / "text.txt").write_text(before + config.word * config.steps)
        if config.word == self.stop:
            raise KeyboardInterrupt
        run.finish({"seed": config.seed})

    def weigh(self, config: WeighConfig, run: Run) -> None:
        self.ran.append(run.directory.name)
        (run.directory / "letters.json").write_text(json.dumps([len(path.read_text()) for path in config.files]))
        run.finish({})


class Toy:
    """The toy pipeline in a directory of its own."""

    def __init__(self, root: Path):
        self.directory, self.path, self.house = root / "runs", root / "toy.toml", House()
        self.path.write_text(RECIPE.format(directory=self.directory))

    def edit(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    def run(self, *overrides: str, **options) -> list[str]:
        """Which stages a run of the command ran."""
        self.house.ran = []
        self.out = io.StringIO()
        console = Console(file=self.out, width=300)
        run_pipeline(self.path, list(overrides), registry=self.house.stages, console=console, **options)
        return self.house.ran

    def text(self, stage: str) -> str:
        return (self.directory / stage / "text.txt").read_text()

    def seed(self, stage: str) -> int:
        return json.loads((self.directory / stage / "config.json").read_text())["seed"]

    def refused(self, *overrides: str, error: type[Exception] = ConfigError, **options) -> str:
        with pytest.raises(error) as caught:
            self.run(*overrides, **options)
        assert self.house.ran == [], "nothing may run before all is checked"
        return str(caught.value)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_references_carry_what_earlier_stages_made(toy: Toy):
    assert toy.run() == ["base", "zero", "other", "count"]
    assert (toy.text("base"), toy.text("zero"), toy.text("other")) == ("aa", "aabbb", "cc")
    assert "letters: [5, 2]" in toy.out.getvalue()


def test_the_same_command_again_runs_nothing(toy: Toy):
    toy.run()
    assert toy.run() == []


def test_editing_a_recipe_reruns_it_and_what_depends_on_it_and_keeps_the_old(toy: Toy):
    toy.run()
    toy.edit('word = "a"', 'word = "A"')
    assert toy.run() == ["base", "zero", "count"]
    assert toy.text("zero") == "AAbbb" and toy.text("base.old-1") == "aa" and toy.text("zero.old-1") == "aabbb"
    assert toy.run("zero.steps=1") == ["zero", "count"]
    assert toy.text("zero.old-2") == "AAbbb" and not (toy.directory / "other.old-1").exists()


def test_a_changed_input_file_reruns_its_readers_only(toy: Toy):
    toy.run()
    (toy.directory / "other" / "text.txt").write_text("edited by hand")
    assert toy.run() == ["count"]


def test_a_done_stage_whose_artefact_is_gone_runs_again(toy: Toy):
    toy.run()
    (toy.directory / "zero" / "text.txt").unlink()
    assert toy.run() == ["zero"], "its text comes out the same, so count stays"
    assert "what it made is gone" in toy.out.getvalue()


def test_a_moved_pipeline_stays_cached(toy: Toy, tmp_path: Path):
    toy.run()
    shutil.move(toy.directory, tmp_path / "elsewhere")
    toy.edit(str(toy.directory), str(tmp_path / "elsewhere"))
    assert toy.run() == []


def test_an_interrupted_pipeline_resumes_at_the_unfinished_stage_in_place(toy: Toy):
    toy.house.stop = "b"
    with pytest.raises(KeyboardInterrupt):
        toy.run()
    toy.house.stop = ""
    assert toy.run(resume=True) == ["zero", "other", "count"]
    assert not (toy.directory / "zero.old-1").exists() and "zero (grow): resumes in" in toy.out.getvalue()


def test_an_unfinished_stage_of_another_recipe_is_moved_aside(toy: Toy):
    toy.house.stop = "b"
    with pytest.raises(KeyboardInterrupt):
        toy.run()
    toy.house.stop = ""
    assert toy.run("zero.word=x") == ["zero", "other", "count"]
    assert toy.text("zero") == "aaxxx" and toy.text("zero.old-1") == "aabbb"


def test_resume_insists_that_there_is_something(toy: Toy):
    assert "holds no run of" in toy.refused(resume=True)
    assert not toy.directory.exists()


def test_fresh_runs_all_again_and_deletes_nothing(toy: Toy):
    toy.run()
    assert toy.run(fresh=True) == ["base", "zero", "other", "count"]
    assert toy.text("zero.old-1") == toy.text("zero")


def test_only_runs_one_stage_on_finished_ground(toy: Toy):
    assert "reads stage 'base', which is not done (new)" in toy.refused(only="zero")
    assert toy.run(only="base") == ["base"]
    assert toy.run(only="zero") == ["zero"]
    toy.edit('word = "a"', 'word = "A"')
    assert "reads stage 'base', which is not done (changed)" in toy.refused(only="zero")
    assert "did you mean 'zero'?" in toy.refused(only="zer")


def test_dry_run_tells_what_would_run_and_writes_nothing(toy: Toy):
    toy.run(dry_run=True)
    assert not toy.directory.exists() and toy.out.getvalue().count("would run") == 4
    toy.run()
    toy.run("zero.steps=9", dry_run=True)
    rows = {line.split()[1]: line for line in toy.out.getvalue().splitlines() if line.startswith("│")}
    assert "cached" in rows["base"] and "cached" in rows["other"]
    assert "would run again, the old run moved aside" in rows["zero"] and "9 steps" in rows["zero"] and "base" in rows["zero"]
    assert "would run again after zero" in rows["count"] and "2 files" in rows["count"] and "zero, other" in rows["count"]
    assert toy.run() == [], "the dry run changed nothing"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"{base}"', '"{bas}"', "stage 'zero': '{bas}' names no stage before this one; did you mean 'base'?"),
        ('"{base}"', '"{other}"', "stage 'zero': '{other}' names no stage before this one"),
        ('"{base}"', '"{zero}"', "stage 'zero': '{zero}' names no stage before this one"),
        ('word = "a"', 'word = "{zero}"', "it is the first stage"),
        ('"{other:text.txt}"', '"{other:../../x}"', "leaves the directory of stage 'other'"),
        ('stage = "weigh"', 'stage = "weight"', "there is no stage 'weight'; did you mean 'weigh'?"),
        ("[shared.grow]", "[shared.gro]", "there is no stage 'gro'; did you mean 'grow'?"),
        ('word = "c"', 'wort = "c"', "stage 'other': unknown key 'wort'; did you mean 'word'?"),
        ("files =", "file =", "stage 'count': unknown key 'file'; did you mean 'files'?"),
        ('name = "other"', 'name = "zero"', "two stages are called 'zero'"),
        ('name = "other"', 'name = "seed"', "a stage is called 'seed', which is a key of the pipeline"),
        ('name = "other"', 'name = "a.b"', "'stages.2.name'"),
        ("seed = 5", "sed = 5", "unknown key 'sed'; did you mean 'seed'?"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(toy: Toy, old: str, new: str, said: str):
    toy.edit(old, new)
    message = toy.refused()
    assert said in message and "\n" not in message and not toy.directory.exists()


def test_a_file_that_no_stage_makes_must_exist_at_the_start(toy: Toy):
    toy.edit('"{other:text.txt}"', '"absent.txt"')
    assert "stage 'count': file 1 is absent.txt, which does not exist" in toy.refused(error=DataError)


def test_braces_within_a_text_are_no_reference(toy: Toy):
    toy.edit('word = "c"', 'word = "say {question}"')
    toy.run()
    assert toy.text("other") == "say {question}" * 2


def test_overrides_reach_the_pipeline_a_kind_or_one_stage(toy: Toy, tmp_path: Path):
    toy.run(f"directory={tmp_path / 'b'}", "shared.grow.steps=1", "zero.recipe.word=y", "other.steps=4")
    assert (tmp_path / "b/zero/text.txt").read_text() == "ayyy" and (tmp_path / "b/other/text.txt").read_text() == "cccc"
    assert "did you mean 'zero'?" in toy.refused("zro.steps=1")
    assert "names a whole stage" in toy.refused("zero=1")


def test_each_stage_has_its_own_seed_from_the_pipelines(toy: Toy):
    toy.run("other.seed=7")
    assert toy.seed("base") == derived_seed(5, "base") != derived_seed(5, "zero") == toy.seed("zero")
    assert toy.seed("other") == 7
    assert toy.run("other.seed=7", "seed=6") == ["base", "zero"], "what follows came out the same"
    assert derived_seed(0, "base") == 1360159166, "and it is the same everywhere"


def test_a_pipeline_that_another_process_runs_is_left_alone(toy: Toy):
    lock = Lock(toy.directory)
    assert "is being written by process" in toy.refused()
    lock.close()
    assert len(toy.run()) == 4


def test_the_graph_is_written_for_later_readers(toy: Toy):
    toy.run()
    nodes = json.loads((toy.directory / "pipeline.json").read_text())["stages"]
    assert [(node["name"], node["needs"]) for node in nodes] == [
        ("base", []),
        ("zero", ["base"]),
        ("other", []),
        ("count", ["zero", "other"]),
    ]


def test_planning_needs_no_directory(toy: Toy):
    stages = plan(read_pipeline(toy.path, []), "toy.toml", toy.house.stages)
    assert [stage.state() for stage in stages] == ["new", "waiting", "new", "waiting"]


def test_parameters_are_counted_without_allocating_them():
    config = {
        "model_type": "llama",
        "vocab_size": 10,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "intermediate_size": 3,
    }
    embed_and_head, attention, mlp, norms = 2 * 10 * 4, 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4, 3 * 4 * 3, 3 * 4
    assert count_parameters(config) == embed_and_head + attention + mlp + norms
