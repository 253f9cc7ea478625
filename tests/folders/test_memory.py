"""Loading a text encoder takes the memory of what is kept of it, once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

MEASURE = """
import sys, threading, time, torch
from pathlib import Path
from disca_rt.folders.language import load_language_model

def rss_anon():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

def load(path):
    return load_language_model(Path(path), "hunyuan-video-1.0")

load(sys.argv[1])  # imports, and what the libraries keep
before, peak, done = rss_anon(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, rss_anon())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
model = load(sys.argv[2])
done.set()
watcher.join()
print(sum(p.numel() * p.element_size() for p in model.parameters()), peak - before)
"""


def write(path: Path, layers: int) -> int:
    """A Llama of 7 MB a layer; returns the bytes of its largest tensor."""
    config = transformers.LlamaConfig(
        vocab_size=500,
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    tensors = transformers.LlamaModel(config).half().state_dict()
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, path)
    return max(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc")
def test_memory_while_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write(tmp_path / "warm.safetensors", 3)
    largest = write(tmp_path / "llama.safetensors", 12)
    files = [str(tmp_path / name) for name in ("warm.safetensors", "llama.safetensors")]
    command = [sys.executable, "-c", MEASURE, *files]
    # A fixed threshold: glibc otherwise keeps the first model's pages for the second.
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
    environment = os.environ | malloc | {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    model, peak = map(int, result.stdout.split())
    assert model > 70e6
    assert 0.9 * model <= peak <= model + 2 * largest
