"""Every option of fairseq's Transformer with which a model can be trained, and the exports that cannot carry it."""

from __future__ import annotations

CASES: dict[str, tuple[str, dict[str, str]]] = {
    "no option": ("", {}),
    "without effect on a trained model": (
        "--dropout 0.2 --attention-dropout 0.1 --activation-dropout 0.1 --relu-dropout 0.1 --encoder-layerdrop 0.2 "
        "--decoder-layerdrop 0.2 --checkpoint-activations --offload-activations --min-params-to-wrap 10 --char-inputs "
        "--export --adaptive-softmax-dropout 0.1 --adaptive-softmax-factor 2 --tie-adaptive-weights "
        "--tie-adaptive-proj --base-sublayers 2 --base-shuffle 0 --quant-noise-pq-block-size 4",
        {},
    ),
    "tanh": ("--activation-fn tanh", {}),
    "gelu": ("--activation-fn gelu", {}),
    "gelu_accurate": ("--activation-fn gelu_accurate", {}),
    "gelu_fast": ("--activation-fn gelu_fast", {}),
    "linear": ("--activation-fn linear", {"ctranslate2": "--activation-fn linear"}),
    "sizes": (
        "--encoder-embed-dim 24 --encoder-ffn-embed-dim 40 --encoder-layers 3 --encoder-attention-heads 4 "
        "--decoder-embed-dim 18 --decoder-ffn-embed-dim 20 --decoder-layers 1 --decoder-attention-heads 3",
        {},
    ),
    "encoder normalises before": ("--encoder-normalize-before", {}),
    "decoder normalises before": ("--decoder-normalize-before", {}),
    "no final norm": ("--encoder-normalize-before --decoder-normalize-before --no-decoder-final-norm", {}),
    "positions": (
        "--encoder-learned-pos --decoder-learned-pos --max-source-positions 64 --max-target-positions 48",
        {},
    ),
    "no positions": ("--no-token-positional-embeddings", {}),
    "embedding files": ("--encoder-embed-path EMBEDDINGS --decoder-embed-path EMBEDDINGS", {}),
    "shared output": ("--share-decoder-input-output-embed", {}),
    "shared embeddings": ("JOINED --share-all-embeddings", {}),
    "merged embeddings": ("JOINED --merge-src-tgt-embed --encoder-embed-dim 24 --decoder-output-dim 24", {}),
    "merged embeddings of two dictionaries": (
        "--merge-src-tgt-embed",
        {"folder": "--merge-src-tgt-embed", "ctranslate2": "--merge-src-tgt-embed"},
    ),
    "output projection": ("--decoder-output-dim 24", {}),
    "normalised embeddings": ("--layernorm-embedding --no-scale-embedding", {}),
    "adaptive softmax": (
        "--adaptive-softmax-cutoff 10,20 --tie-adaptive-proj",
        {"ctranslate2": r"--adaptive-softmax-cutoff \[10, 20\]"},
    ),
    "merged embeddings without positions": (
        "JOINED --merge-src-tgt-embed --encoder-embed-dim 24 --decoder-output-dim 24 --no-token-positional-embeddings",
        {},
    ),
    "no cross-attention": ("--no-cross-attention", {}),
    "cross+self-attention": (
        "--cross-self-attention",
        {"ctranslate2": "--cross-self-attention"},
    ),
    "cross+self-attention alone": (
        "--cross-self-attention --no-cross-attention",
        {"ctranslate2": "--cross-self-attention"},
    ),
    "quantisation noise": ("--quant-noise-pq 0.1", {}),
    "quantisation noise and adaptive input": ("--quant-noise-pq 0.1 --adaptive-input", {}),
    "quantisation noise and normalised embeddings": (
        "--quant-noise-pq 0.1 --layernorm-embedding",
        {"ctranslate2": "--quant-noise-pq with --layernorm-embedding"},
    ),
}
"""What is tried → flags, and for each export that refuses, what the refusal names.

JOINED stands for a corpus with one dictionary for both languages, EMBEDDINGS for a file of word vectors.
"""
