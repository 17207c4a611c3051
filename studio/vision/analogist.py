"""What draws analogies: the embedded model or FLUX.1-Kontext with a basis; page and command line know no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from studio.vision.lorweb import Lorweb

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int, Image.Image | None], None]


class Analogist(Protocol):
    """Looks at three pictures once, routes them to a mix (layers, N), and draws b' from any mix, as often as asked."""

    @property
    def basis(self) -> Lorweb:
        """The basis that is mixed."""

    @property
    def usual_steps(self) -> int:
        """How many steps to take where nobody says."""

    def look(self, a: Image.Image, a2: Image.Image, b: Image.Image) -> Any:
        """What the model needs of the three pictures."""

    def route(self, seen: Any, temperature: float = 1.0) -> Tensor:
        """The mix that the pictures ask for."""

    def blend(self, first: Any, second: Any, t: float) -> Any:
        """What was seen, its example a part t of the way to another's."""

    def draw(
        self,
        seen: Any,
        mix: Tensor,
        *,
        steps: int,
        seed: int = 0,
        strength: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Image.Image:
        """b'; `on_step(done, steps, picture)` sees it form where the model can show that, else None."""
