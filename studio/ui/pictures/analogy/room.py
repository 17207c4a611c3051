"""What the panels of the room share: the visitor's sitting, the models, and the number that says to draw again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.core.errors import Cancelled, LoomError
from studio.ui.pictures.analogy.models import Models, OnStep, Opened
from studio.ui.pictures.analogy.session import Other, Picture, Sitting, Sittings
from studio.ui.shell.panel import Shared
from studio.vision.analogist import Analogist
from studio.vision.kontext import KontextModel
from studio.vision.pictures import to_picture
from studio.vision.space import between, gained, ready
from studio.vision.world import Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Room:
    """Sittings, models, and `version`, whose change draws b' anew."""

    shared: Shared
    version: gr.State
    sittings: Sittings = field(default_factory=Sittings)
    models: Models = field(default_factory=Models)

    def sitting(self, token: str) -> Sitting:
        """The visitor's sitting; raises `LoomError` for who has not entered."""
        self.shared.workspace(token)
        return self.sittings.get(token)

    def full(self, token: str) -> Sitting:
        """The visitor's sitting with all three pictures; raises `LoomError` while one is missing."""
        found = self.sitting(token)
        if found.seen is None:
            raise LoomError("There is no analogy yet", next="fill a, a′ and b, or pick a ready analogy")
        return found

    def change(self, token: str, **fields: Any) -> int:
        """Replace fields of the sitting; the new version."""
        self.shared.workspace(token)
        return self.sittings.change(token, **fields).version

    def look(self, token: str, pictures: Sequence[Picture | None], truth: Picture | None) -> int:
        """Have the model see the pictures, once for all drawings of them; the new version."""
        sitting = self.sitting(token)
        a, a2, b = pictures
        seen = None
        if a is not None and a2 is not None and b is not None:
            seen = self.model(sitting).look(a, a2, b)
        return self.change(token, pictures=(a, a2, b), truth=truth, seen=seen)

    def ready(self, task: Task, scene: int) -> tuple[Picture, Picture, Picture, Picture]:
        """a, a', b and the right b' of an analogy of the world."""
        found = ready(task, scene)
        return to_picture(found.a), to_picture(found.a2), to_picture(found.b), to_picture(found.truth)

    def opened(self, sitting: Sitting) -> Opened:
        """The model of a sitting."""
        return self.models.get(sitting.model)

    def model(self, sitting: Sitting) -> Analogist:
        """What draws for a sitting; FLUX is told the visitor's own words."""
        found = self.opened(sitting).model
        return found.told(sitting.prompting) if isinstance(found, KontextModel) and sitting.prompting else found

    def mixed(self, sitting: Sitting) -> Tensor:
        """The mix that is drawn: routed, moved towards the other, then the gains."""
        mix = self.model(sitting).route(sitting.seen, sitting.temperature)
        if sitting.other is not None and sitting.t:
            mix = between(mix, sitting.other.mix, sitting.t)
        return gained(mix, sitting.gains, renormalise=sitting.renormalise)

    def blended(self, sitting: Sitting) -> Any:
        """What is drawn from: the pictures as seen, moved towards the other's example."""
        if sitting.other is None or not sitting.t:
            return sitting.seen
        return self.model(sitting).blend(sitting.seen, sitting.other.seen, sitting.t)

    def towards(self, sitting: Sitting, task: Task, scene: int) -> Other:
        """An analogy of the world as the other end of the way, with the visitor's b."""
        a, a2, _, _ = self.ready(task, scene)
        b = sitting.pictures[2]
        assert b is not None
        model = self.model(sitting)
        seen = model.look(a, a2, b)
        return Other(seen, model.route(seen, sitting.temperature))

    def drawing(self, token: str, sitting: Sitting, **fields: Any) -> Drawing:
        """A drawing of a sitting, some fields changed; it stops once the visitor has moved on."""
        changed = replace(sitting, **fields)
        return Drawing(self, token, changed, self.mixed(changed))


class Drawing:
    """Draws one b' and shows how far it is; raises `Cancelled` where something newer is wanted."""

    def __init__(self, room: Room, token: str, sitting: Sitting, mix: Tensor) -> None:
        self.room, self.token, self.sitting, self.mix = room, token, sitting, mix
        self.picture: Picture | None = None

    def __call__(self, on_step: OnStep | None = None) -> Picture:
        """The finished picture; `on_step` hears of every step."""
        sitting = self.sitting
        return self.room.model(sitting).draw(
            self.room.blended(sitting),
            self.mix,
            steps=sitting.steps,
            seed=sitting.seed,
            strength=sitting.strength,
            on_step=partial(self._step, on_step),
        )

    @property
    def is_current(self) -> bool:
        """Whether the visitor still looks at this."""
        return self.room.sittings.get(self.token).version == self.sitting.version

    def _step(self, on_step: OnStep | None, done: int, of: int, picture: Picture | None) -> None:
        self.picture = picture
        if on_step is not None:
            on_step(done, of, "")
        if done < of and not self.is_current:
            raise Cancelled("Something newer is drawn")
