#!/bin/sh
# Makes `smoljudge`, the adapter that relscope ships, from freely licensed data. One command, deterministic:
#
#     sh examples/smoljudge/recipe.sh xquad.en.json [EVALUATION.jsonl]
#
# xquad.en.json is the English part of XQuAD (CC BY-SA 4.0, https://github.com/google-deepmind/xquad). questions.jsonl
# lies beside this file: written for relscope (Apache-2.0), passages that answer and passages that only look like it, with
# the query's words on either side. The other sources are fetched with apt-get and pip (see prepare_data.py), or taken
# from the folder that $PACKAGES names. The adapter, its learning curve and its card with all figures are written to
# ./smoljudge. The demo collection and EVALUATION.jsonl (pairs, such as those of MS MARCO) are judged before and after,
# and never trained on.
set -eu
here=$(dirname "$0")
python "$here/prepare_data.py" training-data ${PACKAGES:+--packages "$PACKAGES"}
cp "$here/questions.jsonl" training-data/questions.jsonl
cp "$1" training-data/xquad.en.json
relscope tune "$here/tune.yaml" --evaluate demo ${2:+--evaluate "$2"} --out smoljudge
