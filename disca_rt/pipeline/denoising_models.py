"""The models of the denoising stage: in memory while it lasts, with what is made for them."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import Stopwatch
from ..models.dit import DiT
from ..sampling.denoiser import Denoiser
from .load import Facts
from .residency import Held, kept, loaded


class DenoisingModels:
    """DiT, predictor and denoiser of a pipeline, which says what it is made of."""

    dit: DiT
    graphs: GraphRunner | None
    max_states: int
    facts: Facts
    _dit: Held
    _predictor: Held
    _denoiser: Denoiser | None = None

    @property
    def denoiser(self) -> Denoiser:
        """The denoising stage; its DiT is loaded for it."""
        if self._denoiser is None:
            self._denoiser = Denoiser(self.dit, self.graphs, self.max_states)
        return self._denoiser

    @contextmanager
    def keeping_models(self) -> Iterator[None]:
        """Have DiT and predictor in memory, from sample to sample, while the context lasts."""
        is_kept = self._dit.is_kept
        with kept(self._dit, self._predictor):
            try:
                with self._denoising(self.stopwatch()):
                    pass
                yield
            finally:
                if not is_kept:
                    self._close_denoiser()

    def stopwatch(self) -> Stopwatch:
        """Stopwatch of one call's stages; may be replaced by one that does more."""
        return Stopwatch(self.facts.place.device)

    @contextmanager
    def _denoising(self, stopwatch: Stopwatch) -> Iterator[None]:
        """Have the models in memory; what was made for ones that go is given up before them."""
        with loaded(stopwatch, self._dit, self._predictor):
            try:
                yield
            finally:
                if not self._dit.is_kept:
                    self._close_denoiser()

    def _close_denoiser(self) -> None:
        if self._denoiser is not None:
            self._denoiser.close()
        self._denoiser = None
