"""A reward that always fails stops the run in words, with everything from before it saved."""

from afterbase.track import read_metrics

PLAIN = {"steps": 4, "prompts_per_step": 2, "group": 2, "sampling": {"max_tokens": 8}, "engine": {"rows": 4}, "saving": {"every": 1}}
BREAKS = """
calls = 0

def broken(completions, **columns):
    global calls
    calls += 1
    if calls > 4:  # two rounds of two prompts
        raise OSError("the licence server is away")
    return [float(len(each)) for each in completions]
"""


def test_a_reward_that_always_fails_stops_the_run_in_words(dense, recipe, rows, command, tmp_path, monkeypatch):
    """Two good rounds, then every verdict fails, asked twice: nothing is learned from it, and the same command goes on when it is mended."""
    (tmp_path / "licensed.py").write_text(BREAKS)
    monkeypatch.chdir(tmp_path)
    data = rows(*[{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(4)])
    rewards = {"domains": {"default": [{"kind": "function", "path": "licensed:broken"}]}}
    page = recipe(model=dense, prompts=[{"kind": "jsonl", "path": data}], rewards=rewards, **PLAIN)
    run = tmp_path / "run"
    code, _, said = command("rl", page, "--out", run)
    said = " ".join(said.split())
    assert code == 2 and "4 of 4 verdicts failed in " in said and "the licence server is away" in said
    assert "mend the verifier and run the same command to go on" in said
    assert len(read_metrics(run / "metrics.jsonl")) == 2 and (run / "checkpoints" / "000002").exists()

    (tmp_path / "licensed.py").write_text(BREAKS.replace("calls > 4", "calls > 400"))
    monkeypatch.delitem(__import__("sys").modules, "licensed")
    code, _, said = command("rl", page, "--out", run)
    print(code, said)
