"""Find the note that answers a question, by a text backbone in this process.

python examples/search_by_meaning.py
"""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

from midrib.backbones import load_backbone

NOTES = [
    "The bakery on the corner opens at six.",
    "Our cat was found asleep in the laundry basket.",
    "The central bank left its interest rate alone.",
    "Snow is expected above eight hundred metres.",
]
QUESTIONS = [
    "Where can I buy bread early?",
    "Did the kitten turn up?",
    "Will loans get dearer?",
    "Do I need winter tyres?",
]


def main() -> None:
    """Print the most similar note for each question, with the cosine of the two."""
    minilm = load_backbone("text/embedding/all-minilm-l6-v2")  # its weights come in a package: no download
    notes = minilm.embed_texts(NOTES)  # [4, 384]; rows of length 1, so that a product is a cosine
    for question in QUESTIONS:
        cosines = notes @ minilm.embed_texts([question])[0]
        best = int(cosines.argmax())
        print(f"{question:<30} -> {NOTES[best]}  ({cosines[best]:.2f})")


if __name__ == "__main__":
    main()
