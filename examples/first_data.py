"""Write a folder of pictures and a table of texts, to train the first heads on with `midrib train`.

python examples/first_data.py
midrib train --backbone efficientnet-lite0 --data textures --out textures-head
midrib train --backbone all-minilm-l6-v2 --data texts.csv --label kind --out texts-head
"""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image
from skimage import data

PATCH = 128
TEXTS = {
    "food": [
        "Fry the onions until they are golden.",
        "The soup needs more salt and a little pepper.",
        "We baked bread with rye flour this morning.",
        "Add two eggs and a cup of milk to the dough.",
        "The restaurant serves fresh fish on Fridays.",
        "Her grandmother's apple pie won a prize.",
        "Let the tomato sauce simmer for an hour.",
        "He cut the cheese and opened a bottle of wine.",
    ],
    "travel": [
        "The night train to Vienna leaves at nine.",
        "Our flight was delayed by a storm over the sea.",
        "We walked along the coast to the old harbour.",
        "You need a visa to cross that border.",
        "The hotel near the station was fully booked.",
        "They drove through the desert in a rented car.",
        "The ferry takes two hours to reach the island.",
        "She packed a tent and a map for the mountains.",
    ],
}


def main() -> None:
    """Write textures/, three photographs cut into patches, with a folder for each; and texts.csv."""
    for name in ("brick", "grass", "gravel"):
        photograph = getattr(data, name)()
        folder = Path("textures") / name
        folder.mkdir(parents=True, exist_ok=True)
        for top in range(0, 512, PATCH):
            for left in range(0, 512, PATCH):
                patch = photograph[top : top + PATCH, left : left + PATCH]
                Image.fromarray(patch).save(folder / f"{top}-{left}.png")
    with Path("texts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "kind"])
        table.writerows((text, kind) for kind, texts in TEXTS.items() for text in texts)


if __name__ == "__main__":
    main()
