import json
import struct

import pytest

from afterbase.errors import DataError
from afterbase.evals.curves import CURVES, Stage, draw, read_stage, smoothed


def stage(label, count):
    steps = {
        at: {"train/accuracy/mean": at / count, "train/reward/mean": 1.1 * at / count, "train/response_length/mean": 40.0 + at}
        for at in range(count)
    }
    steps[0]["eval/accuracy/mean"] = 0.1
    return Stage(label, steps)


def test_smoothing_takes_the_neighbours_and_keeps_a_straight_line():
    assert smoothed([0, 3, 6, 3], 1) == [1.5, 3, 4, 4.5]
    assert smoothed([5.0] * 9, 3) == [5.0] * 9
    assert smoothed([1.0], 4) == [1.0]


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    stages = [stage("zero $x", 30), stage("final", 1)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for curve in CURVES:
            png, svg = draw(curve, stages, "n = 8 responses a step", tmp_path / name)
    assert all((tmp_path / "two" / file.name).read_bytes() == file.read_bytes() for file in (tmp_path / "one").iterdir())
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == [
        f"{name}.{ending}" for name in ("accuracy", "response_length", "reward") for ending in ("png", "svg")
    ]
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    assert width > 1000 and height > 500
    assert b"<dc:date>" not in svg.read_bytes()


def test_a_metric_that_nobody_logged_makes_no_plot(tmp_path):
    assert draw(CURVES[0], [Stage("sft", {0: {"train/loss/mean": 1.0}})], "n = 1", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_steps_are_read_in_order_and_numbers_that_were_not_finite_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "train/reward/mean": 0.5}, {"step": 0, "train/reward/mean": None}, {"step": 0, "eval/accuracy/mean": 0.25}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_stage("zero", file)
    assert read.steps == {0: {"eval/accuracy/mean": 0.25}, 1: {"train/reward/mean": 0.5}}
    assert read.series("train/reward/mean") == ([1], [0.5])


def test_a_stage_that_never_ran_is_an_error_in_words(tmp_path):
    with pytest.raises(DataError, match=r"no metrics of stage 'zero' at .*metrics.jsonl; give the directory"):
        read_stage("zero", tmp_path / "metrics.jsonl")
