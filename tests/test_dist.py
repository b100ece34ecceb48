import pytest

from afterbase import dist
from afterbase.errors import ConfigError


@pytest.fixture
def environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_alone_this_process_is_the_first_of_one(environment):
    place = dist.here()
    assert (place.rank, place.world, place.local_rank) == (0, 1, 0) and place.device.type in ("cpu", "cuda")


def test_a_launcher_that_starts_one_process_is_welcome(environment):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        environment(name, value)
    assert dist.here().world == 1


@pytest.mark.parametrize(("name", "value", "said"), [("WORLD_SIZE", "2", "works in one process"), ("RANK", "first", "RANK is 'first'")])
def test_anything_else_is_refused_in_words(environment, name: str, value: str, said: str):
    environment(name, value)
    with pytest.raises(ConfigError, match=said) as caught:
        dist.here()
    assert "start afterbase once" in str(caught.value)


def test_whether_there_are_several_is_asked_of_the_environment_alone(environment):
    assert not dist.several() and dist.leads()
    environment("WORLD_SIZE", "2")
    assert dist.several()


def test_alone_nobody_else_is_asked(environment):
    assert dist.summed((3, 4)) == (3, 4) and dist.any_of(True) and not dist.any_of(False)
