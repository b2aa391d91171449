"""Class vectors from a text encoder, as `knowledge.vectors` reads them.

    uv run --with sentence-transformers python benchmarks/encode_texts.py --model FOLDER --out runs/encoder.npz

FOLDER holds a sentence-transformers model (all-MiniLM-L6-v2 was used for the results page). The sentence of a class is
its name, its synonyms, its gloss and its hypernyms.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def sentence(row: dict[str, Any]) -> str:
    """What the encoder reads of a class."""
    kinds = ", ".join(names[0] for names in row["hypernyms"])
    name = row["class_name"].replace("_", " ")
    return f"{name} ({', '.join(row['synonyms'])}): {row['gloss']}. It is a kind of {kinds}."


def main() -> None:
    """Reads the texts, encodes, writes the vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, default=ROOT.parent / "shared/data/cifar100/class_texts.jsonl")
    parser.add_argument("--model", required=True, help="folder of a sentence-transformers model")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    rows = [json.loads(line) for line in options.texts.read_text().splitlines()]
    vectors = SentenceTransformer(options.model).encode([sentence(row) for row in rows])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, class_names=[row["class_name"] for row in rows], vectors=np.asarray(vectors, np.float32))
    print(f"{options.out}: {len(rows)} classes, {vectors.shape[1]} dimensions")


if __name__ == "__main__":
    main()
