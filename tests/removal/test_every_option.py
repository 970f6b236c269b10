"""Every option of fairseq's Transformer through every export: the same translations, or refused in one sentence."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from argparse import Namespace

import inprocess
import pytest
import support
import torch
from every_option import CASES
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.transformer import TransformerModel

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.model.flat_options import flat_names
from fairseq_dsp.removal.ctranslate2_spec import EXPRESSED

from .test_compact import batch, same

# Nothing can be trained with these: refused, or fairseq fails, or needs a package.
UNTRAINABLE = {
    "quant_noise_scalar", "base_layers", "encoder_layers_to_keep", "decoder_layers_to_keep",
    "encoder_xformers_att_config", "decoder_xformers_att_config",
}  # fmt: skip


def test_all_options_are_here():
    parser = argparse.ArgumentParser()
    TransformerModel.add_args(parser)
    flags = {action.option_strings[0] for action in parser._actions} - {"--help", "-h"}
    tried = {word for given, _ in CASES.values() for word in given.split() if word.startswith("--")}
    assert flags - tried == {f"--{name.replace('_', '-')}" for name in UNTRAINABLE}


def test_the_engine_knows_all_options():
    assert flat_names() - EXPRESSED == UNTRAINABLE | {"adaptive_softmax_cutoff", "cross_self_attention"}
    assert flat_names() >= EXPRESSED


@pytest.fixture(scope="module")
def folders(tiny_data, tmp_path_factory):
    """Data folders with two dictionaries and with one, and a file of embeddings, which is gone after training."""
    joined = support.make_tiny_data(tmp_path_factory.mktemp("joined"), "--joined-dictionary")
    return tiny_data, joined


def random_checkpoint(folder, data, *flags):
    """Write a checkpoint as a training leaves it, every weight of which is drawn at random."""
    config = inprocess.argparse_config(data, folder, "--heads-to-keep", 5, *flags)
    model = inprocess.build(config)
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        sharp = any(part in name for part in ("q_proj.weight", "k_proj.weight", "output_projection", "embed_tokens"))
        weight.data = torch.randn(weight.shape, generator=draw) * (0.8 if sharp else 0.3)
        if "norm.weight" in name or name.endswith("layernorm_embedding.weight"):
            weight.data += 1
    return inprocess.save(model, config, folder / "checkpoint.pt")


def loaded(path, data):
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides={"data": str(data)})
    return model.eval(), task


def trained_on(said, data):
    """Build the model of the command that ``compact`` prints for training it on."""
    printed = shlex.split(said.splitlines()[-1])
    usual = ("--optimizer", "adam", "--criterion", "cross_entropy")
    args = options.parse_args_and_arch(options.get_training_parser(), [str(data), *printed[2:], *usual])
    return inprocess.build(convert_namespace_to_omegaconf(args))


def translations(task, model, sample):
    generator = task.build_generator([model], Namespace(beam=3, max_len_b=12))
    found = task.inference_step(generator, [model], sample)
    return [[(h["tokens"].tolist(), h["score"].item()) for h in hypotheses] for hypotheses in found]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_same_or_refused(case, folders, tmp_path, capsys):
    flags, refusals = CASES[case]
    data = folders["JOINED" in flags]
    embeddings = tmp_path / "embeddings.txt"
    embeddings.write_text("1 16\nba " + " ".join(["0.5"] * 16) + "\n")
    given = [str(embeddings) if word == "EMBEDDINGS" else word for word in shlex.split(flags) if word != "JOINED"]
    checkpoint = random_checkpoint(tmp_path, data, *given)
    model, task = loaded(checkpoint, data)
    sample = batch(task, 6)
    expected = translations(task, model, sample)
    assert len({str(h) for h in expected}) > 1 or "--no-cross-attention" in flags
    embeddings.unlink()  # the weights are in the checkpoint

    def export(name, out, *arguments):
        """What the export said if it wrote *out*; None if it refused to, as it should."""
        before = set(os.listdir(tmp_path))
        status = main([name, str(checkpoint), str(tmp_path / out), *map(str, arguments)])
        said, error = capsys.readouterr()
        refusal = refusals.get(name.removeprefix("export-"))
        if refusal is None:
            assert status == 0, error
            return said
        assert status == 1
        assert re.search(refusal, error), error
        assert len(error.strip().splitlines()) == 1
        assert set(os.listdir(tmp_path)) == before
        return None

    for name in ("compact", "export-fairseq"):
        if said := export(name, f"{name}.pt"):
            if name == "compact":
                trained_on(said, data).load_state_dict(torch.load(tmp_path / "compact.pt")["model"])
            exported, _ = loaded(tmp_path / f"{name}.pt", data)
            exported.make_generation_fast_(need_attn=False)
            same(translations(task, exported, sample), expected)
    if export("export-folder", "folder", "--data", data):
        read = fairseq_dsp.from_pretrained(tmp_path / "folder")
        same(translations(read.task, read.model, sample), expected)
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    if export("export-ctranslate2", "engine", "--data", data):
        engine = ctranslate2.Translator(str(tmp_path / "engine"), intra_threads=1)
        for row, hypotheses in enumerate(expected):
            source = [task.source_dictionary[i] for i in sample["net_input"]["src_tokens"][row] if i not in (1, 2)]
            targets = [[task.target_dictionary[i] for i in tokens[:-1]] for tokens, _ in hypotheses]
            results = engine.score_batch([source] * len(targets), targets)
            scores = [sum(result.log_probs) / len(result.log_probs) for result in results]
            assert scores == pytest.approx([score for _, score in hypotheses], abs=1e-4)
