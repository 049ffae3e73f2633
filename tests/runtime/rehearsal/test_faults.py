import pytest

from loopforge.drivers.simulator import faults as simulated
from loopforge.runtime.rehearsal.faults import FAULTS, PROVIDER_FAULTS, WORKER_FAULTS, UnusableFault, read_faults

PROVIDERS = ("ollama", "deepseek", "anthropic")


def test_every_fault_of_the_simulator_can_be_rehearsed_under_its_own_name() -> None:
    assert set(PROVIDER_FAULTS) == set(simulated.FAULTS)


def test_each_fault_has_a_name_of_its_own_and_a_sentence() -> None:
    assert not set(PROVIDER_FAULTS) & set(WORKER_FAULTS)
    assert all(FAULTS.values())


def test_faults_are_sorted_by_whom_they_befall() -> None:
    faults = read_faults(
        ["ollama=cut", "deepseek=kill-worker", "ollama=stop-worker", "deepseek=kill-worker"], PROVIDERS
    )
    assert faults.of_provider == {"ollama": "cut"}
    assert faults.of_worker == {"deepseek": ("kill-worker",), "ollama": ("stop-worker",)}
    assert faults.named("ollama") == ("cut", "stop-worker")
    assert faults.named("anthropic") == ()
    assert faults.to_plain() == {"deepseek": ["kill-worker"], "ollama": ["cut", "stop-worker"]}


def test_no_words_ask_for_no_faults() -> None:
    assert read_faults([], PROVIDERS).to_plain() == {}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ollama", r"'ollama' is not PROVIDER=FAULT, such as ollama=cut"),
        ("=cut", r"'=cut' is not PROVIDER=FAULT"),
        ("ollama=", r"'ollama=' is not PROVIDER=FAULT"),
        ("olama=cut", r"no provider 'olama'; did you mean 'ollama'\? configured: ollama, deepseek, anthropic"),
        ("zzz=cut", r"no provider 'zzz'; configured: ollama, deepseek, anthropic"),
        ("ollama=cutt", r"no fault 'cutt'; did you mean 'cut'\? faults: slow, .*, stop-worker"),
        ("ollama=KILL-WORKER", r"did you mean 'kill-worker'\?"),
        ("ollama=cut=3", r"no fault 'cut=3'"),
    ],
)
def test_a_word_that_cannot_be_done_says_what_to_write_instead(word: str, said: str) -> None:
    with pytest.raises(UnusableFault, match=said):
        read_faults([word], PROVIDERS)


def test_a_provider_cannot_misbehave_in_two_ways_at_once() -> None:
    with pytest.raises(UnusableFault, match="ollama cannot do 'cut' and 'stall' at once"):
        read_faults(["ollama=cut", "ollama=stall"], PROVIDERS)
    assert read_faults(["ollama=cut", "ollama=cut"], PROVIDERS).of_provider == {"ollama": "cut"}
