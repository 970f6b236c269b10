"""``--help`` of fairseq's commands has the options of what is chosen."""

import pytest
from support import PLUGIN, run_fairseq

OWN = {"transformer_dsp": "--min-cross-heads", "roberta_dsp": "--segment-embedding"}


@pytest.mark.parametrize("arch", OWN)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_the_options_of_the_architecture_are_there(arch: str, word: str) -> None:
    printed = run_fairseq("train", "--user-dir", PLUGIN, "--arch", arch, word).stdout
    assert "--heads-to-keep" in printed
    assert OWN[arch] in printed
    assert "--save-dir" in printed


def test_those_of_other_choices_too() -> None:
    printed = run_fairseq(
        "train", "--user-dir", PLUGIN, "--arch", "transformer_dsp", "--optimizer", "adam", "--help"
    ).stdout
    assert "--adam-betas" in printed


@pytest.mark.parametrize("command", ["train", "validate", "generate", "interactive"])
def test_without_a_choice_it_is_fairseqs(command: str) -> None:
    printed = run_fairseq(command, "--user-dir", PLUGIN, "--help").stdout
    assert "usage:" in printed
    assert "--batch-size" in printed
    assert "Traceback" not in printed


def test_where_two_choices_share_an_option_it_is_fairseqs() -> None:
    printed = run_fairseq(
        "train", "--user-dir", PLUGIN, "--task", "speech_to_text", "--arch", "transformer", "-h"
    ).stdout
    assert "--save-dir" in printed
    assert "Traceback" not in printed


def test_an_architecture_that_there_is_not_is_refused_as_before() -> None:
    done = run_fairseq("train", "--user-dir", PLUGIN, "--arch", "transformer_dps", "--help", check=False)
    assert done.returncode == 2
    assert "invalid choice: 'transformer_dps'" in done.stdout
