"""PyTorch's side of a comparison: a process that trains or predicts at the pace that `workers.Worker` sets.

A variant is a set of words: "fused" (optimizer), "inplace" (ReLU), "channels_last", "compile", and for prediction "jit"
and "one_thread". Without any, PyTorch is used as its tutorials do.
"""

import json
import sys
from collections.abc import Set
from typing import Any

import nets
import torch
from torch import Tensor, nn
from torch.nn import functional
from workers import Pace


class Training:
    """Steps of training, each from choosing images to updating the weights, the fastest way that PyTorch has.

    The images lie in memory as bytes, in the order that the network wants, and a second time mirrored: choosing a
    mirrored image is then as quick as choosing any, while mirroring in the step would cost PyTorch several times as
    much as all else that is done to a batch.
    """

    def __init__(self, net: nets.Net, variant: Set[str], count: int, batch: int, random: bool = True) -> None:
        torch.manual_seed(0)
        images, labels = nets.images(count, net.classes)
        pixels, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        # As large as an image: PyTorch is slow where three numbers meet the last axis.
        self.mean = (255 * torch.tensor(nets.MEAN)).expand(1, nets.SIDE, nets.SIDE, 3).contiguous()
        self.scale = (1 / (255 * torch.tensor(nets.STD))).expand(1, nets.SIDE, nets.SIDE, 3).contiguous()
        if random:
            pixels = torch.cat([pixels, pixels.flip(2)])
        self.channels_last = "channels_last" in variant
        if not self.channels_last:
            pixels, self.mean, self.scale = (
                a.permute(0, 3, 1, 2).contiguous() for a in (pixels, self.mean, self.scale)
            )
        self.pixels = pixels
        self.count, self.batch, self.random = count, batch, random
        self.order, self.next = torch.arange(count), count
        self.module = modified(net.torch_module(dropout=random), variant)
        self.optimizer = net.torch_optimizer(self.module, "fused" in variant)
        self.loss_of = torch.compile(self._loss_of, dynamic=False) if "compile" in variant else self._loss_of

    def step(self) -> Tensor:
        if self.next == self.count:
            self.order, self.next = torch.randperm(self.count) if self.random else self.order, 0
        rows = self.order[self.next : self.next + self.batch]
        self.next += self.batch
        mirrored = self.count * torch.randint(2, (self.batch,)) if self.random else 0
        self.optimizer.zero_grad()
        loss = self.loss_of(rows + mirrored, rows)
        loss.backward()
        self.optimizer.step()
        return loss

    def _loss_of(self, images: Tensor, rows: Tensor) -> Tensor:
        """Compute a batch's loss; where PyTorch compiles, it may fuse all of this."""
        x = self.pixels.index_select(0, images).float().sub_(self.mean).mul_(self.scale)
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        return functional.cross_entropy(self.module(x), self.labels.index_select(0, rows))


def modified(module: nn.Module, variant: Set[str]) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = "inplace" in variant
    return module.to(memory_format=torch.channels_last) if "channels_last" in variant else module  # type: ignore[call-overload]


def predict(net: nets.Net, variant: Set[str], batch: int, pace: Pace) -> None:
    """Predict the labels of one batch again and again."""
    if "one_thread" in variant:
        torch.set_num_threads(1)
    images, _ = nets.images(batch, net.classes)
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(nets.MEAN)) / torch.tensor(nets.STD)
    x = x.permute(0, 3, 1, 2)  # this is channels-last
    x = x if "channels_last" in variant else x.contiguous()
    module = modified(net.torch_module().eval(), variant)
    with torch.inference_mode():
        scores = module(x[:1])[0].tolist()
    with torch.inference_mode() if "jit" not in variant else torch.no_grad():
        run: Any = module
        if "jit" in variant:
            run = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, x)))
        if "compile" in variant:
            run = torch.compile(module, dynamic=False, options={"freezing": True})
    pace.ready(version=torch.__version__, threads=torch.get_num_threads(), check=scores)
    with torch.inference_mode():
        while True:
            run(x).argmax(1)
            pace.tick()


def main() -> None:
    job, pace = json.loads(sys.argv[1]), Pace()
    net, variant = nets.NETS[job["net"]], set(job["variant"])
    try:
        if job["task"] == "predict":
            predict(net, variant, job["batch"], pace)
        losses = []
        if job["check"]:
            check = Training(net, set(), job["check"], job["check"], random=False)
            losses = [check.step().item() for _ in range(2)]
        training = Training(net, variant, job["count"], net.batch)
        pace.ready(version=torch.__version__, threads=torch.get_num_threads(), check=losses)
        while True:
            training.step()
            pace.tick()
    except Exception as error:
        pace.fail(error)
        raise


if __name__ == "__main__":
    main()
