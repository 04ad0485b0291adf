#!/usr/bin/env bash
# Environments for the libraries that compare.py times beside factorlm, one for each that needs its own versions.
#
#     benchmarks/rivals/install.sh [FOLDER]
#
# FOLDER (default: .rivals) gets `main` (genlm-control, LM-Steer, plain transformers) and `arithmetic`
# (language-model-arithmetic, which needs an older transformers). Clones that lie in FOLDER/src already are used as they
# are. About 4 GB; nothing of it enters factorlm.
set -euo pipefail
folder=${1:-.rivals}
python=${PYTHON:-python3.11}
mkdir -p "$folder/src"

clone() { # name, address, commit
  [ -d "$folder/src/$1" ] || git clone --quiet "$2" "$folder/src/$1"
  git -C "$folder/src/$1" checkout --quiet "$3" -- "${@:4}"
}
clone language-model-arithmetic https://github.com/eth-sri/language-model-arithmetic \
  6779b40702d5214525a21e51c91d5042f873bd81 src pyproject.toml README.md
clone LM-Steer https://github.com/Glaciohound/LM-Steer 265982f6d8027d3a2ec4b65b775cf3e704e187f5 lm_steer

[ -d "$folder/main" ] || "$python" -m venv "$folder/main"
"$folder/main/bin/pip" install --quiet torch==2.13.0 "genlm-control==0.4.1"
[ -d "$folder/arithmetic" ] || "$python" -m venv "$folder/arithmetic"
"$folder/arithmetic/bin/pip" install --quiet torch==2.13.0 transformers==4.46.3 trl==0.11.4 "datasets<4" "numpy<2.3" \
  "$folder/src/language-model-arithmetic"
echo "ready: python benchmarks/rivals/compare.py --rivals $folder"
