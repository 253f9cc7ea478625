"""One rank of test_exchange.py: schedulers that are gone after their process group was destroyed.

Whoever holds the group last waits for gloo's threads. With the GIL held that locked up when one of
them was dropping a tensor, after some tens of attempts.
"""

import faulthandler
from datetime import timedelta
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from disca_rt.parallel._native import Partition, Scheduler

ATTEMPTS = 200
PATIENCE = 60  # seconds


def main() -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    with TemporaryDirectory() as folder:
        for attempt in range(ATTEMPTS):
            store = dist.FileStore(f"{folder}/{attempt}", 1)
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)
            scheduler = Scheduler(
                partition=Partition(img_tokens=1, txt_tokens=0, heads=1, ranks=1),
                rank=0,
                group=dist.group.WORLD,
                batch=1,
                head_dim=1,
                dtype=torch.float32,
                device=torch.device("cpu"),
                timeout=timedelta(seconds=60),
            )
            dist.all_reduce(torch.zeros(1))
            dist.destroy_process_group()
            del scheduler


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
