#!/usr/bin/env bash
# Speed of shapes of one model in CTranslate2, before any of them is trained: pruned, with fewer layers, narrower.
#
#     benchmarks/shapes.sh data/multi30k-2k shapes [heads.json ...]
#
# A file of heads adds the shape that a training chose for a model with as many heads.
# Each shape is trained for two updates, made compact, and exported in int8 and float32; then all of them take turns, by
# engine precision, batch size and beam size. OUT/bench-PRECISION-BATCH-BEAM/bench.md has the figures.
set -euo pipefail
data=$(realpath "$1") out=$2 runs=${RUNS:-15}
mkdir -p "$out"
export OMP_NUM_THREADS=1 LC_ALL=C

names=()
shape() { # NAME WIDTH NEURONS ENCODER-LAYERS DECODER-LAYERS [options of pruning]
    local name=$1 width=$2 neurons=$3 encoder=$4 decoder=$5
    shift 5
    names+=("$name")
    [ -d "$out/$name/float32" ] && return
    rm -rf "${out:?}/$name"
    echo "shape $name"
    fairseq-train "$data/data-bin" --user-dir fairseq_dsp --save-dir "$out/$name" --seed 1 --cpu --task translation_dsp \
        --criterion label_smoothed_cross_entropy_dsp --label-smoothing 0.1 --arch transformer_dsp \
        --encoder-layers "$encoder" --decoder-layers "$decoder" --encoder-embed-dim "$width" --decoder-embed-dim "$width" \
        --encoder-ffn-embed-dim "$neurons" --decoder-ffn-embed-dim "$neurons" --encoder-attention-heads 4 \
        --decoder-attention-heads 4 --share-all-embeddings --optimizer adam --lr 0.0001 --max-update 2 --max-tokens 300 \
        --disable-validation --num-workers 0 --no-progress-bar "$@" > "$out/$name.log" 2>&1
    local model=$out/$name/checkpoint_last.pt
    if [ $# -gt 0 ]; then
        fairseq-dsp compact "$model" "$out/$name/compact.pt" >> "$out/$name.log" 2>&1
        model=$out/$name/compact.pt
    fi
    fairseq-dsp export-ctranslate2 "$model" "$out/$name/int8" --quantization int8 --data "$data" >> "$out/$name.log" 2>&1
    fairseq-dsp export-ctranslate2 "$model" "$out/$name/float32" --data "$data" >> "$out/$name.log" 2>&1
}

shape unpruned 256 1024 3 3
shape heads-18 256 1024 3 3 --heads-to-keep 18 --uniform-heads
shape heads-12-3-3 256 1024 3 3 --heads-to-keep 18 --uniform-heads --min-encoder-heads 12
shape heads-9 256 1024 3 3 --heads-to-keep 9 --uniform-heads
for file in "${@:3}"; do
    shape "chosen-$(basename "$file" .json)" 256 1024 3 3 --head-selection fixed --kept-heads "$file"
done
shape units-48 256 1024 3 3 --ffn-units-to-keep 48
shape units-24 256 1024 3 3 --ffn-units-to-keep 24
shape both-18-48 256 1024 3 3 --heads-to-keep 18 --uniform-heads --ffn-units-to-keep 48
shape both-12-3-3-48 256 1024 3 3 --heads-to-keep 18 --uniform-heads --min-encoder-heads 12 --ffn-units-to-keep 48
shape both-9-24 256 1024 3 3 --heads-to-keep 9 --uniform-heads --ffn-units-to-keep 24
shape layers-3-2 256 1024 3 2
shape layers-2-2 256 1024 2 2
shape layers-2-2-both 256 1024 2 2 --heads-to-keep 12 --uniform-heads --ffn-units-to-keep 32
shape layers-3-1 256 1024 3 1
shape neurons-512 256 512 3 3
shape neurons-256 256 256 3 3
shape width-192 192 768 3 3
shape width-128 128 512 3 3

for precision in int8 float32; do
    folders=()
    for name in "${names[@]}"; do folders+=("$out/$name/$precision"); done
    for batch in 64 1; do
        for beam in 5 1; do
            fairseq-dsp bench "${folders[@]}" --batch-sizes "$batch" --beam "$beam" --threads 1 --no-memory \
                --runs $((batch == 1 ? 3 * runs : runs)) --output "$out/bench-$precision-$batch-$beam"
        done
    done
done
